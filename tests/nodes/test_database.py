"""The database node on SQLite: values bound, rows as JSON, files that stay closed, and what may be repeated.

``test_database_servers.py`` does the same with real PostgreSQL and MariaDB servers.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError
from appliance.nodes import _databases
from appliance.nodes.database import Database
from tests.support.context import FakeContext, FakeWorld, run_node

URL = "sqlite:///plants.db"
DEADLINE = 20.0
#: Counts for ever unless it is ended.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, plant"


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(root=tmp_path)


def query(ctx: FakeContext, sql: str, params: Any = None, **config: Any) -> dict[str, Any]:
    result = run_node(Database(), {"url": URL, "sql": sql, "params": params, **config}, None, ctx)
    assert isinstance(result, dict)
    return result


def refused(ctx: FakeContext, sql: str, params: Any = None, **config: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        query(ctx, sql, params, **config)
    return caught.value


@pytest.fixture
def plants(ctx: FakeContext) -> FakeContext:
    query(ctx, "CREATE TABLE plant (id INTEGER PRIMARY KEY, name TEXT UNIQUE, t REAL)")
    query(ctx, "INSERT INTO plant (name, t) VALUES (?, ?)", many=[["fern", 20.5], ["rose", 31]])
    return ctx


def test_rows_come_as_objects(plants: FakeContext) -> None:
    assert query(plants, "SELECT * FROM plant ORDER BY id") == {
        "rows": [{"id": 1, "name": "fern", "t": 20.5}, {"id": 2, "name": "rose", "t": 31.0}],
        "rowcount": 2,
        "lastrowid": None,
        "truncated": False,
    }


def test_changes_tell_how_many_and_the_new_id(plants: FakeContext) -> None:
    inserted = query(plants, "INSERT INTO plant (name) VALUES (:name)", {"name": "lily", "more": 1})
    assert (inserted["rowcount"], inserted["lastrowid"], inserted["rows"]) == (1, 3, [])
    assert query(plants, "UPDATE plant SET t = 0")["rowcount"] == 3
    returned = query(plants, "DELETE FROM plant WHERE t = ? RETURNING name", [0])
    assert [row["name"] for row in returned["rows"]] == ["fern", "rose", "lily"]


def test_values_are_bound_and_never_pasted(plants: FakeContext) -> None:
    evil = "x'; DROP TABLE plant; --"
    query(plants, "INSERT INTO plant (name) VALUES (?)", [evil])
    found = query(plants, "SELECT name FROM plant WHERE name = :name", {"name": evil})
    assert found["rows"] == [{"name": evil}]


def test_json_and_blobs_as_values(plants: FakeContext) -> None:
    reference = plants.blobs.put(b"\x89PNG")
    values = {"list": [1, "ü"], "object": {"a": None}, "blob": reference, "yes": True}
    result = query(plants, "SELECT :list AS list, :object AS object, :blob AS blob, :yes AS yes", values)
    (row,) = result["rows"]
    assert (row["list"], row["object"], row["yes"]) == ('[1,"ü"]', '{"a":null}', 1)
    assert plants.blobs.get(row["blob"]) == b"\x89PNG"


def test_columns_of_one_name_are_all_kept(plants: FakeContext) -> None:
    sql = "SELECT a.id, b.id, a.id AS id_2 FROM plant a JOIN plant b ON b.id = a.id + 1"
    assert query(plants, sql)["rows"] == [{"id": 1, "id_2": 2, "id_2_2": 1}]


def test_odd_values_become_json(plants: FakeContext) -> None:
    result = query(plants, "SELECT 9e999 AS huge, CAST(x'ff41' AS TEXT) AS broken")
    assert result["rows"] == [{"huge": None, "broken": "\ufffdA"}]


def test_rows_are_bounded_and_say_so(plants: FakeContext) -> None:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    result = query(plants, sql, limit=10)
    assert (len(result["rows"]), result["rowcount"], result["truncated"]) == (10, 10, True)
    assert query(plants, f"{sql} LIMIT 10", limit=10)["truncated"] is False


def test_many_is_all_or_none(plants: FakeContext) -> None:
    sql = "INSERT INTO plant (name) VALUES (:name)"
    error = refused(plants, sql, many=[{"name": "lily"}, {"name": "fern"}])
    assert "UNIQUE" in error.message
    assert not error.retryable
    assert query(plants, "SELECT count(*) AS n FROM plant")["rows"] == [{"n": 2}]
    assert query(plants, sql, many=[{"name": "lily"}, {"name": "moss"}])["rowcount"] == 2
    assert query(plants, sql, many=[])["rowcount"] == 0


def test_reading_cannot_write(plants: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Even if the sorting of statements were fooled.
    monkeypatch.setattr("appliance.nodes.database._only_reads", lambda sql: True)
    assert "readonly" in refused(plants, "DELETE FROM plant").message
    assert "no database file" in refused(plants, "SELECT 1", url="sqlite:///none.db").message
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    "sql",
    ["ATTACH DATABASE '{other}' AS o", "ATTACH 'file:{other}?mode=rw' AS o", "VACUUM INTO '{other}.copy'"],
)
def test_no_other_file_is_reached(plants: FakeContext, tmp_path: Path, sql: str) -> None:
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE secret (x)")
    assert "authoriz" in refused(plants, sql.format(other=other)).message
    assert "not authorized" in refused(plants, "ATTACH ? AS o", [str(other)]).message
    assert not (tmp_path / "other.db.copy").exists()


def test_housekeeping_and_memory_databases_work(plants: FakeContext) -> None:
    query(plants, "VACUUM")
    assert query(plants, "ATTACH ':memory:' AS m")["rows"] == []
    assert query(plants, "SELECT 1 AS one", url="sqlite://")["rows"] == [{"one": 1}]
    assert query(plants, "CREATE TABLE t (x)", url="sqlite:///:memory:")["rows"] == []


def test_folders_are_made_and_escapes_refused(ctx: FakeContext, tmp_path: Path) -> None:
    query(ctx, "CREATE TABLE t (x)", url="sqlite:///deep/er/my%20file%3F.db")
    assert (tmp_path / "deep/er/my file?.db").is_file()
    query(ctx, "SELECT * FROM t", url=f"sqlite:///{tmp_path}/deep/er/my%20file%3F.db")
    for url in ("sqlite:///../x.db", "sqlite:////etc/x.db"):
        with pytest.raises(ConfigError):
            query(ctx, "CREATE TABLE t (x)", url=url)


@pytest.mark.parametrize(
    ("sql", "params", "message"),
    [
        ("SELEKT 1", None, "syntax error"),
        ("SELECT * FROM nowhere", None, "no such table"),
        ("DELETE FROM plant; DELETE FROM plant", None, "one statement"),
        ("SELECT ?", [2**70], "does not fit"),
        ("SELECT ?", ["\ud800"], "does not fit"),
    ],
)
def test_faults_of_the_statement_are_not_retried(plants: FakeContext, sql: str, params: Any, message: str) -> None:
    error = refused(plants, sql, params)
    assert message in error.message
    assert not error.retryable


def test_a_locked_database_may_be_retried(plants: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_databases, "BUSY_TIMEOUT", 0.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "plants.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        error = refused(plants, "UPDATE plant SET t = 1")
    assert error.retryable
    assert error.detail == {"code": "SQLITE_BUSY"}


def test_a_file_that_is_no_database_is_refused(ctx: FakeContext, tmp_path: Path) -> None:
    (tmp_path / "plants.db").write_text("these are no pages of a database at all" * 100)
    error = refused(ctx, "SELECT 1 FROM x")
    assert "not a database" in error.message
    assert not error.retryable


class Cancelled(FakeContext):
    """Is cancelled at once."""

    def on_cancel(self, abort: Callable[[], None]) -> None:
        abort()


def wait_until_read(file: Path) -> None:
    """A query that is under way keeps others from locking the file for themselves."""
    deadline = time.monotonic() + DEADLINE
    with contextlib.closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
        while time.monotonic() < deadline:
            try:
                other.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                return
            other.execute("ROLLBACK")
            time.sleep(0.01)
    raise AssertionError("the query never started")


def test_cancelling_ends_the_query(plants: FakeContext) -> None:
    assert plants.root is not None
    errors: list[NodeError] = []
    plants.on_cancels.clear()
    thread = threading.Thread(target=lambda: errors.append(refused(plants, ENDLESS)))
    thread.start()
    wait_until_read(plants.root / "plants.db")
    plants.cancel()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert "cancelled" in errors[0].message


def test_a_query_cancelled_before_it_began_does_not_run(plants: FakeContext) -> None:
    assert "cancelled" in refused(Cancelled(root=plants.root), "DELETE FROM plant").message
    assert query(plants, "SELECT count(*) AS n FROM plant")["rows"] == [{"n": 2}]


@pytest.mark.parametrize(
    "config",
    [
        {"sql": ""},
        {"url": "plants.db"},
        {"url": "sqlite://plants.db"},
        {"url": "oracle://h/x"},
        {"url": "sqlite:///plants.db?mode=rw"},
        {"url": "postgresql://u:hush/x@h/db"},
        {"url": "postgresql://h/db?passfile=/etc/shadow"},
        {"params": "x"},
        {"sql": "SELECT :a", "params": {"b": 1}},
        {"sql": "SELECT :a", "params": [1]},
        {"sql": "SELECT ?, ?", "params": [1]},
        {"sql": "SELECT ?", "many": [[1]]},
        {"sql": "INSERT INTO plant (t) VALUES (?)", "many": [[1]], "params": [1]},
        {"sql": "INSERT INTO plant (t) VALUES (?)", "many": [[1], []]},
        {"limit": 0},
        {"effect": "never"},
    ],
)
def test_a_bad_config_is_refused(plants: FakeContext, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        query(plants, **{"sql": "SELECT 1", **config})
    assert "hush" not in caught.value.message


def test_the_sql_is_never_a_template() -> None:
    import msgspec

    schema = msgspec.json.schema(Database.Config)["$defs"]["DatabaseConfig"]["properties"]
    assert schema["sql"]["x-flowork-text"] == "code"


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ("SELECT 1;", Effect.IDEMPOTENT),
        ("-- first\n/* then */ (select 'INSERT; x' AS \"delete\") -- ;", Effect.IDEMPOTENT),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Effect.IDEMPOTENT),
        ("SELECT $$ ; DELETE $$, e'\\'; DELETE'", Effect.IDEMPOTENT),
        ("WITH a AS (SELECT 1) DELETE FROM b", Effect.ONCE),
        ("SELECT 1; DROP TABLE x", Effect.ONCE),
        ("SELECT 1 INTO x", Effect.ONCE),
        ("SELECT 1 /*! INTO OUTFILE 'x' */", Effect.ONCE),
        ("SELECT * FROM x FOR UPDATE", Effect.ONCE),
        ("INSERT INTO x VALUES (1)", Effect.ONCE),
        ("PRAGMA user_version = 5", Effect.ONCE),
        ("", Effect.ONCE),
    ],
)
def test_only_what_surely_reads_may_be_repeated(sql: str, effect: Effect) -> None:
    assert Database().effect_of({"sql": sql}) is effect
    assert Database().effect_of({"sql": sql, "effect": "once"}) is Effect.ONCE
    assert Database().effect_of({"sql": sql, "effect": "idempotent"}) is Effect.IDEMPOTENT
    assert Database().effect_of({"sql": sql, "effect": "{{ x }}"}) is Effect.ONCE


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        ({"url": URL}, []),
        ({"url": "{{ secrets.db }}"}, []),
        ({"url": "plants.db"}, ["url"]),
        ({"url": "postgresql://h/db"}, ["url"]),
        ({"url": "mariadb://h/db"}, []),
        ({"url": URL, "params": [], "many": []}, ["many"]),
    ],
)
def test_faults_are_found_on_save(config: dict[str, Any], paths: list[str]) -> None:
    world = FakeWorld(modules=frozenset({"pymysql"}))
    found = list(Database().check({"sql": "SELECT 1", **config}, world))
    assert [fault.path for fault in found] == paths
    if config["url"].startswith("postgresql"):
        assert "flowork[postgres]" in found[0].message


@pytest.mark.parametrize(("url", "extra"), [("postgresql://h/x", "postgres"), ("mysql://h/x", "mysql")])
def test_a_missing_driver_names_the_extra(ctx: FakeContext, url: str, extra: str, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigError, match=rf"flowork\[{extra}\]"):
        query(ctx, "SELECT 1", url=url)


def test_the_drivers_are_not_loaded_with_the_node() -> None:
    code = "import sys, appliance.nodes.database; sys.exit(bool({'psycopg', 'pymysql'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
