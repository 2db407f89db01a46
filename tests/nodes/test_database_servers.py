"""The database node with real PostgreSQL and MariaDB servers: what is alike, what differs, and being cut off."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pymysql
import pytest

from appliance.contracts import ConfigError, NodeError
from appliance.nodes import _databases
from appliance.nodes.database import Database
from tests.support.context import FakeContext, run_node
from tests.support.servers import PASSWORD, free_port, mysql_server, postgres_server

DEADLINE = 30.0


@dataclass
class Server:
    """One kind of database, with its own words for what the tests need."""

    kind: str
    url: str
    sleep: str
    busy: str
    blob: str
    types: str


def _postgres(url: str) -> Server:
    return Server(
        "postgresql",
        url,
        "SELECT pg_sleep(600)",
        "SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(600)%' "
        "AND pid <> pg_backend_pid()",
        "BYTEA",
        "SELECT 12345678901234567890::numeric AS whole, 1.50::numeric(9,2) AS part, date '2026-11-21' AS day, "
        "timestamptz '2026-11-21 12:00+00' AS moment, interval '90 seconds' AS span, "
        "'00000000-0000-0000-0000-000000000001'::uuid AS id, '{\"a\": [1.5]}'::jsonb AS doc, "
        "ARRAY[1,2] AS list, 'NaN'::float AS nan, true AS yes",
    )


def _mysql(url: str) -> Server:
    return Server(
        "mysql",
        url,
        "SELECT SLEEP(600)",
        "SELECT count(*) AS n FROM information_schema.processlist WHERE info LIKE '%SLEEP(600)%' "
        "AND id <> connection_id()",
        "BLOB",
        "SELECT CAST(12345678901234567890 AS DECIMAL(30)) AS whole, CAST(1.50 AS DECIMAL(9,2)) AS part, "
        "DATE '2026-11-21' AS day, TIMESTAMP '2026-11-21 12:00:00' AS moment, TIME '00:01:30' AS span",
    )


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "postgresql":
        with postgres_server() as url:
            yield _postgres(url)
    else:
        with mysql_server() as url:
            yield _mysql(url)


def query(server: Server, sql: str, params: Any = None, ctx: FakeContext | None = None, **config: Any) -> Any:
    return run_node(Database(), {"url": server.url, "sql": sql, "params": params, **config}, None, ctx)


def refused(server: Server, sql: str, params: Any = None, **config: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        query(server, sql, params, **config)
    assert PASSWORD not in caught.value.message
    return caught.value


@pytest.fixture
def plants(server: Server) -> Iterator[Server]:
    query(server, "CREATE TABLE plant (id INTEGER PRIMARY KEY, name VARCHAR(99) UNIQUE, t FLOAT)")
    query(server, "INSERT INTO plant VALUES (?, ?, ?)", many=[[1, "fern 100% 'ü'", 20.5], [2, "rose", None]])
    yield server
    query(server, "DROP TABLE plant")


def test_rows_and_values(plants: Server) -> None:
    found = query(
        plants, "SELECT id, name, t FROM plant WHERE name LIKE :like AND id % 2 = :odd", {"like": "%%", "odd": 1}
    )
    assert found["rows"] == [{"id": 1, "name": "fern 100% 'ü'", "t": 20.5}]
    assert query(plants, "SELECT ? AS a, '?' AS b, '100%' AS c", ["'; --"])["rows"] == [
        {"a": "'; --", "b": "?", "c": "100%"}
    ]
    assert query(plants, "SELECT '100%' AS c")["rows"] == [{"c": "100%"}]


def test_changes(plants: Server) -> None:
    assert query(plants, "UPDATE plant SET t = :t WHERE id = :id", {"t": 1, "id": 1})["rowcount"] == 1
    assert query(plants, "DELETE FROM plant")["rowcount"] == 2


def test_the_id_of_a_new_row(server: Server) -> None:
    if server.kind == "postgresql":
        query(server, "CREATE TABLE note (id SERIAL PRIMARY KEY, text TEXT)")
        result = query(server, "INSERT INTO note (text) VALUES (?) RETURNING id", ["x"])
        assert (result["rows"], result["rowcount"], result["lastrowid"]) == ([{"id": 1}], 1, None)
    else:
        query(server, "CREATE TABLE note (id INTEGER AUTO_INCREMENT PRIMARY KEY, text TEXT)")
        assert query(server, "INSERT INTO note (text) VALUES (?)", ["x"])["lastrowid"] == 1
    query(server, "DROP TABLE note")


def test_types_become_json(server: Server) -> None:
    (row,) = query(server, server.types)["rows"]
    assert row["whole"] == 12345678901234567890
    assert row["part"] == 1.5
    assert row["day"] == "2026-11-21"
    assert row["moment"].startswith("2026-11-21T12:00:00")
    assert row["span"] == 90.0
    if server.kind == "postgresql":
        assert row["id"] == "00000000-0000-0000-0000-000000000001"
        assert (row["doc"], row["list"], row["nan"], row["yes"]) == ({"a": [1.5]}, [1, 2], None, True)


def test_blobs_go_in_and_come_out(server: Server) -> None:
    ctx = FakeContext()
    query(server, f"CREATE TABLE picture (data {server.blob})")
    query(server, "INSERT INTO picture VALUES (?)", [ctx.blobs.put(b"\x89PNG\xff")], ctx)
    (row,) = query(server, "SELECT data FROM picture", ctx=ctx)["rows"]
    assert ctx.blobs.get(row["data"]) == b"\x89PNG\xff"
    query(server, "DROP TABLE picture")


def test_rows_are_bounded(plants: Server) -> None:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT a.i FROM n a, n b"
    result = query(plants, sql, limit=10)
    assert (len(result["rows"]), result["rowcount"], result["truncated"]) == (10, 10, True)
    assert query(plants, "SELECT id FROM plant", limit=2)["truncated"] is False
    assert query(plants, "SELECT id FROM plant WHERE id > 5")["rows"] == []


def test_many_is_all_or_none(plants: Server) -> None:
    rename = "UPDATE plant SET name = :name WHERE id = :id"
    error = refused(plants, rename, many=[{"id": 1, "name": "lily"}, {"id": 2, "name": "lily"}])
    assert not error.retryable
    assert query(plants, "SELECT name FROM plant WHERE name = 'lily'")["rows"] == []
    sql = "INSERT INTO plant (id, name) VALUES (:id, :name)"
    assert query(plants, sql, many=[{"id": 3, "name": "lily"}, {"id": 4, "name": "moss"}])["rowcount"] == 2
    assert query(plants, "SELECT count(*) AS n FROM plant")["rows"] == [{"n": 4}]


def test_reading_cannot_write(plants: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Even if the sorting of statements were fooled.
    monkeypatch.setattr("appliance.nodes.database._only_reads", lambda sql: True)
    assert "read" in refused(plants, "DELETE FROM plant").message.lower()
    assert query(plants, "SELECT count(*) AS n FROM plant")["rows"] == [{"n": 2}]


@pytest.mark.parametrize("sql", ["SELEKT 1", "SELECT * FROM nowhere", "INSERT INTO plant (id) VALUES (1)"])
def test_faults_of_the_statement_are_not_retried(plants: Server, sql: str) -> None:
    error = refused(plants, sql)
    assert not error.retryable
    assert error.detail["code"]


def test_a_text_that_the_server_cannot_hold_is_not_retried(server: Server) -> None:
    assert not refused(server, "SELECT ?", ["\ud800"]).retryable


def test_a_locked_row_may_be_retried(plants: Server) -> None:
    code = "55P03" if plants.kind == "postgresql" else 1205
    wait = "SELECT id FROM plant WHERE id = 1 FOR UPDATE NOWAIT"
    with held_row(plants):
        error = refused(plants, wait)
    assert error.retryable
    assert error.detail == {"code": code}


@contextlib.contextmanager
def held_row(server: Server) -> Iterator[None]:
    """Another client that has locked the row 1."""
    sql = "SELECT id FROM plant WHERE id = 1 FOR UPDATE"
    if server.kind == "postgresql":
        with psycopg.connect(server.url) as other:
            other.execute(sql)
            yield
            other.rollback()
    else:
        address = server.url.rpartition("@")[2]
        host, port = address.partition("/")[0].split(":")
        with contextlib.closing(
            pymysql.connect(host=host, port=int(port), user="flowork", password=PASSWORD, database="flowork")
        ) as other:
            other.begin()
            other.cursor().execute(sql)
            yield


def test_wrong_password_and_closed_port(server: Server) -> None:
    wrong = server.url.replace(PASSWORD, "hushhush")
    assert "hush" not in refused(server, "SELECT 1", url=wrong).message
    closed = f"{server.kind}://flowork:hushhush@127.0.0.1:{free_port()}/flowork"
    error = refused(server, "SELECT 1", url=closed)
    assert error.retryable
    assert "hush" not in error.message


def test_options_of_the_url(server: Server) -> None:
    option = "application_name=greenhouse" if server.kind == "postgresql" else "charset=utf8mb4"
    assert query(server, "SELECT 1 AS one", url=f"{server.url}?{option}")["rows"] == [{"one": 1}]
    with pytest.raises(ConfigError, match="no option"):
        query(server, "SELECT 1", url=f"{server.url}?read_default_file=/etc/shadow")


# --- ending a query ------------------------------------------------------------------------------------


class Watched(FakeContext):
    """Hands the abort of the node to the test."""

    registered: list[Callable[[], None]]

    def on_cancel(self, abort: Callable[[], None]) -> None:
        self.registered.append(abort)


class Cancelled(FakeContext):
    """Is cancelled at once."""

    def on_cancel(self, abort: Callable[[], None]) -> None:
        abort()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def sleepers(server: Server) -> int:
    return int(query(server, server.busy)["rows"][0]["n"])


@contextlib.contextmanager
def sleeping(server: Server, url: str = "") -> Iterator[tuple[Watched, list[NodeError], threading.Thread]]:
    """A query that the server is busy with."""
    ctx = Watched()
    ctx.registered = []
    errors: list[NodeError] = []

    def work() -> None:
        try:
            query(server, server.sleep, ctx=ctx, **({"url": url} if url else {}))
        except NodeError as exc:
            errors.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: sleepers(server) == 1, "the query never started")
    yield ctx, errors, thread
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_cancelling_ends_the_query_on_the_server_too(server: Server) -> None:
    with sleeping(server) as (ctx, errors, thread):
        ctx.registered[0]()
        thread.join(DEADLINE)
        until(lambda: sleepers(server) == 0, "the server went on")
    assert "cancelled" in errors[0].message


def test_a_query_cancelled_before_it_began_does_not_run(plants: Server) -> None:
    with pytest.raises(NodeError, match="cancelled"):
        query(plants, "DELETE FROM plant", ctx=Cancelled())
    assert query(plants, "SELECT count(*) AS n FROM plant")["rows"] == [{"n": 2}]


def test_a_server_that_does_not_listen_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_databases, "_CANCEL_ATTEMPTS", 0)
    with sleeping(server) as (ctx, errors, thread):
        ctx.registered[0]()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        end_sleepers(server)
    assert "cancelled" in errors[0].message


def end_sleepers(server: Server) -> None:
    """A cut connection is noticed by the server only when its query is over."""
    if server.kind == "postgresql":
        query(
            server,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%sleep(600)%' "
            "AND pid <> pg_backend_pid()",
            effect="once",
        )
    else:
        for row in query(server, server.busy.replace("count(*) AS n", "id"))["rows"]:
            query(server, f"KILL {row['id']}")
    until(lambda: sleepers(server) == 0, "the server went on")


def test_a_server_that_never_speaks_can_be_cancelled(server: Server) -> None:
    """It takes the connection and says nothing."""
    ctx = Watched()
    ctx.registered = []
    errors: list[NodeError] = []
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"{server.kind}://u:p@127.0.0.1:{mute.getsockname()[1]}/x"

        def work() -> None:
            try:
                query(server, "SELECT 1", ctx=ctx, url=url)
            except NodeError as exc:
                errors.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        client, _ = mute.accept()
        with client:
            ctx.registered[0]()
            if server.kind == "postgresql":
                client.shutdown(socket.SHUT_RDWR)  # libpq hands out no socket yet; its own limit is 10 s
            thread.join(DEADLINE)
        assert not thread.is_alive()
    assert "cancelled" in errors[0].message
