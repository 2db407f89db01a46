"""Migrations: in order, one transaction each, tried on a copy, never half done."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store.errors import StoreError, StoreTooNew
from appliance.store.migrations import APPLICATION_ID, migrate, rehearse, step_back, version_of
from appliance.store.schema import MIGRATIONS, Migration

pytestmark = pytest.mark.files_only

ONE = Migration(1, "one", ("CREATE TABLE a (id INTEGER PRIMARY KEY, x TEXT)", "INSERT INTO a VALUES (1, 'x')"))
TWO = Migration(2, "two", ("CREATE TABLE b (a INTEGER REFERENCES a (id))", "INSERT INTO b VALUES (1)"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "flowork.db"
    target.touch()
    return target


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_steps_run_in_order_and_once(path: Path) -> None:
    assert migrate(path, [ONE]) == [ONE]
    assert migrate(path, [ONE, TWO]) == [TWO]
    assert migrate(path, [ONE, TWO]) == []
    assert version_of(path) == 2
    assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert rows(path, "SELECT * FROM b") == [(1,)]


@pytest.mark.parametrize(
    "bad",
    [
        Migration(2, "bad", ("CREATE TABLE c (x)", "INSERT INTO nowhere VALUES (1)")),
        Migration(2, "bad", ("CREATE TABLE b (a INTEGER REFERENCES a (id))", "INSERT INTO b VALUES (77)")),
        Migration(2, "bad", ("UPDATE a SET x = 'gone'", "nonsense")),
    ],
)
def test_a_step_that_fails_changes_nothing(path: Path, bad: Migration) -> None:
    migrate(path, [ONE])
    before = path.read_bytes()
    with pytest.raises(StoreError, match="step 2"):
        migrate(path, [ONE, bad])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["flowork.db"]
    assert migrate(path, [ONE, TWO]) == [TWO]


def test_a_later_step_that_fails_does_not_leave_an_earlier_one_done(path: Path) -> None:
    migrate(path, [ONE])
    before = path.read_bytes()
    with pytest.raises(StoreError, match="step 3"):
        migrate(path, [ONE, TWO, Migration(3, "bad", ("nonsense",))])
    assert path.read_bytes() == before


def test_a_rehearsal_that_was_cut_off_is_no_obstacle(path: Path) -> None:
    migrate(path, [ONE])
    path.with_name("flowork.db.rehearsal").write_bytes(b"half a copy")
    assert migrate(path, [ONE, TWO]) == [TWO]


def test_rebuilding_a_table_does_not_delete_what_refers_to_it(path: Path) -> None:
    migrate(path, [ONE, TWO])
    rebuild = Migration(
        3,
        "rebuild",
        (
            "CREATE TABLE a2 (id INTEGER PRIMARY KEY, x TEXT, y TEXT DEFAULT '')",
            "INSERT INTO a2 (id, x) SELECT id, x FROM a",
            "DROP TABLE a",
            "ALTER TABLE a2 RENAME TO a",
        ),
    )
    migrate(path, [ONE, TWO, rebuild])
    assert rows(path, "SELECT b.a, a.x FROM b JOIN a ON a.id = b.a") == [(1, "x")]


def test_a_newer_schema_is_refused(path: Path) -> None:
    migrate(path, [ONE, TWO])
    with pytest.raises(StoreTooNew, match="schema 2, this one knows 1"):
        migrate(path, [ONE])


def test_the_steps_are_numbered_without_a_gap() -> None:
    assert [step.number for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    assert all(step.title for step in MIGRATIONS)


def test_trying_on_a_copy_changes_nothing_and_says_what_would_be_done(path: Path) -> None:
    migrate(path, [ONE])
    before = path.read_bytes()
    assert rehearse(path, [ONE, TWO]) == [TWO]
    bad = Migration(2, "bad", ("INSERT INTO nowhere VALUES (1)",))
    with pytest.raises(StoreError, match="step 2"):
        rehearse(path, [ONE, bad])
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["flowork.db"]


def test_an_older_program_takes_its_own_form_out_again(path: Path) -> None:
    migrate(path, [ONE])
    migrate(path, [ONE, TWO])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("INSERT INTO a VALUES (2, 'written by the newer one')")
        connection.commit()
    aside = step_back(path, [ONE])
    assert aside is not None and version_of(aside) == 2 and len(rows(aside, "SELECT * FROM a")) == 2
    assert version_of(path) == 1 and rows(path, "SELECT * FROM a") == [(1, "x")]
    assert step_back(path, [ONE]) is None
    assert migrate(path, [ONE, TWO]) == [TWO]


def test_without_a_copy_of_its_form_an_older_program_refuses(path: Path) -> None:
    migrate(path, [ONE, TWO])
    with pytest.raises(StoreTooNew, match="schema 2, this one knows 1"):
        step_back(path, [ONE])
    assert version_of(path) == 2
