"""Bring ``flowork.db`` to this program's schema: step by step, each in one transaction, tried on a copy first.

The number of the last step done is ``PRAGMA user_version``. A database of a newer program is refused: going on
would damage what the newer one relies on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from appliance.store.errors import StoreError, StoreTooNew, explained
from appliance.store.schema import MIGRATIONS, Migration
from appliance.store.sqlite_file import backup_database, check_database, connect, files_of, remove_database

#: ``PRAGMA application_id`` of our database: "Flow".
APPLICATION_ID = 0x466C6F77


def version_of(path: Path) -> int:
    """The schema a database has; 0 for an empty one. Raises ``StoreError`` if it is not one of Flowork's."""
    with explained(path), closing(connect(path)) as connection:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (tables or version):
        raise StoreError(f"{path} is a database of another program; move it out of the data folder")
    return version


def pending(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> list[Migration]:
    """The steps a database still needs. Raises ``StoreTooNew``."""
    version, newest = version_of(path), migrations[-1].number
    if version > newest:
        raise StoreTooNew(
            f"{path} was written by a newer Flowork (schema {version}, this one knows {newest}): "
            "install that version again, or restore a backup from before the update"
        )
    return [step for step in migrations if step.number > version]


def migrate(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> list[Migration]:
    """Run the steps that are missing and return them. Nobody else may have the database open.

    A database with content is copied and the copy migrated and checked before the real one is touched; a
    step that fails raises ``StoreError`` and leaves the database as it was.
    """
    steps = pending(path, migrations)
    if steps and version_of(path) > 0:
        _rehearse(path, steps)
        _keep_before(path)
    if steps:
        _apply(path, steps)
    return steps


def rehearse(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> list[Migration]:
    """Try the missing steps on a copy, while others may have the database open; which they are.

    Raises ``StoreError`` if one fails, ``StoreTooNew`` for a database of a newer program.
    """
    steps = pending(path, migrations)
    if steps and version_of(path) > 0:
        _rehearse(path, steps)
    return steps


def _keep_before(path: Path) -> None:
    """A copy of the database as it is, for a program that must go back to its own form (:func:`step_back`)."""
    for old in path.parent.glob(f"{path.name}.before-*"):
        remove_database(old)
    backup_database(path, path.with_name(f"{path.name}.before-{version_of(path)}"))


def step_back(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> Path | None:
    """Take the copy out again that was kept before a newer program changed the database's form.

    What was changed in the newer form is lost with it; the newer database is kept, and where is the answer. None if
    this program can read the database as it is. Raises ``StoreTooNew`` if there is no copy that it can read.
    """
    newest = migrations[-1].number
    version = version_of(path)
    if version <= newest:
        return None
    for copy in path.parent.glob(f"{path.name}.before-*"):
        if copy.suffix.partition("-")[2].isdigit() and version_of(copy) <= newest:
            aside = path.with_name(f"{path.name}.schema-{version}")
            remove_database(aside)
            backup_database(path, aside)
            older = path.with_name(f"{path.name}.older")
            remove_database(older)
            backup_database(copy, older)
            # Whatever the log holds is in the copy that was put aside; it must not meet the older database.
            for file in files_of(path):
                if file != path:
                    file.unlink(missing_ok=True)
            older.rename(path)
            return aside
    pending(path, migrations)  # which says it in its own words
    return None


def _rehearse(path: Path, steps: Sequence[Migration]) -> None:
    copy = path.with_name(path.name + ".rehearsal")
    remove_database(copy)
    try:
        backup_database(path, copy)
        _apply(copy, steps)
        damage = check_database(copy)
        if damage:
            raise StoreError(f"the update of {path.name} would damage it ({damage}); nothing was changed")
    finally:
        with suppress(OSError):
            remove_database(copy)


def _apply(path: Path, steps: Sequence[Migration]) -> None:
    with explained(path), closing(connect(path)) as connection:
        # Off, or rebuilding a table would delete what refers to it (sqlite.org/lang_altertable.html, 7).
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA synchronous=FULL")
        for step in steps:
            _step(connection, path, step)


def _step(connection: sqlite3.Connection, path: Path, step: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in step.statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={step.number}")
        if connection.execute("PRAGMA foreign_key_check").fetchone():
            raise StoreError(f"step {step.number} ({step.title}) left rows that refer to nothing")
        connection.execute("COMMIT")
    except BaseException as exc:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        if type(exc) is sqlite3.OperationalError and exc.sqlite_errorcode == sqlite3.SQLITE_ERROR:
            raise StoreError(
                f"{path.name} could not be updated: step {step.number} ({step.title}): {exc}; nothing was changed"
            ) from exc
        raise
