"""Make the database ready for use: its schema, brought up to date by one process while the others wait.

All that an open finds wrong is said in one line with the server's host, and never with the password.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import psycopg

from appliance.store.errors import StoreError, StoreTooNew
from appliance.store.opening import DATABASE, RESTORING, OpenReport
from appliance.store.postgres.connecting import (
    IN_USE,
    OLDEST,
    OPENING,
    SCHEMA,
    Address,
    Connection,
    address_of,
    connect,
    explained,
)
from appliance.store.postgres.dialect import translated
from appliance.store.postgres.run_schema import RUN_MIGRATIONS
from appliance.store.schema import MIGRATIONS, Migration

#: The advisory lock of whoever looks after the schema.
_LOCK = 1_718_185_072
#: Noted beside the parts: what is here was moved back into a folder; it is not yet all here.
MOVED, MOVING = "moved", "moving"
#: The schema's parts, each numbered by itself.
_PARTS: dict[str, Sequence[Migration]] = {"store": MIGRATIONS, "runs": RUN_MIGRATIONS}


def prepare(url: str, data: Path | None, now: Callable[[], float]) -> OpenReport:
    """Check the server, make or update what is missing. Raises ``StoreError``.

    ``data`` is the engine's folder; without one the database is for an engine that is about to be moved there.
    """
    if data is not None and (data / RESTORING).exists():
        raise StoreError(
            f"a restore into {data} was cut off: empty the folder, then run `flowork restore` again", retryable=False
        )
    address = address_of(url)
    with explained(url), closing(connect(url, name=OPENING)) as connection:
        _check_server(connection, address)
        found = versions(connection)
        _check_counts(found, address, data)
        if not _missing(found, address):
            return OpenReport(state="opened", message="opened", at=now())
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        found = versions(connection)  # another process may have done it while this one waited
        steps = _missing(found, address)
        if not steps:
            return OpenReport(state="opened", message="opened", at=now())
        if not found:
            _check_fresh(connection, address, data)
        _check_alone(connection, address)
        _apply(connection, address, steps)
    if not found:
        return OpenReport(state="created", message="made a new database", at=now())
    done = ", ".join(step.title for _, step in steps)
    return OpenReport(state="migrated", message=f"updated the database: {done}", at=now())


def pending(url: str) -> list[str]:
    """What the schema of a database still needs, by title. Changes nothing. Raises ``StoreError``."""
    with explained(url), closing(connect(url, name=OPENING)) as connection:
        _check_server(connection, address_of(url))
        return [step.title for _, step in _missing(versions(connection), address_of(url))]


def versions(connection: Connection) -> dict[str, int]:
    """How far each part of the schema is; nothing in a database that Flowork has not used yet."""
    if connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema_version",)).fetchone() == (None,):
        return {}
    return dict(connection.execute("SELECT part, version FROM schema_version").fetchall())


def _missing(found: dict[str, int], address: Address) -> list[tuple[str, Migration]]:
    """The steps still to be done. Raises ``StoreTooNew``."""
    for part, steps in _PARTS.items():
        if found.get(part, 0) > steps[-1].number:
            raise StoreTooNew(
                f"{address} was written by a newer Flowork (schema {found[part]} of its {part}, this one knows "
                f"{steps[-1].number}): install that version again, or restore a backup from before the update"
            )
    return [(part, step) for part, steps in _PARTS.items() for step in steps if step.number > found.get(part, 0)]


def _check_counts(found: dict[str, int], address: Address, data: Path | None) -> None:
    """Raises ``StoreError`` where an engine's data is not, or not yet, what counts."""
    if MOVED in found:
        raise StoreError(
            f"the engine of {address} has moved back into a data folder: unset FLOWORK_DATABASE_URL there, or name "
            "another database",
            retryable=False,
        )
    if MOVING in found and data is not None:
        raise StoreError(
            f"moving an engine to {address} was cut off: run the same `flowork migrate` again", retryable=False
        )


def _check_server(connection: Connection, address: Address) -> None:
    if connection.info.server_version < OLDEST:
        found = connection.info.server_version // 10000
        raise StoreError(f"{address} is PostgreSQL {found}; Flowork needs {OLDEST // 10000} or newer", retryable=False)
    encoding = connection.execute("SHOW server_encoding").fetchone()
    if encoding != ("UTF8",):
        raise StoreError(
            f"{address} keeps its text as {encoding and encoding[0]}; make one that keeps it as UTF8: "
            f"createdb -T template0 -E UTF8 {address.name}",
            retryable=False,
        )


def _check_fresh(connection: Connection, address: Address, data: Path | None) -> None:
    """Neither somebody else's schema nor an engine's data that would seem to be gone."""
    if connection.execute("SELECT to_regnamespace(%s)", (SCHEMA,)).fetchone() != (None,):
        raise StoreError(
            f"{address} has a schema {SCHEMA!r} of another program; name another database", retryable=False
        )
    if data is not None and (data / DATABASE).exists():
        raise StoreError(
            f"{address} is empty, and the flows of this engine are in {data / DATABASE}: take them along with "
            "`flowork migrate --to`, or unset FLOWORK_DATABASE_URL",
            retryable=False,
        )


def _check_alone(connection: Connection, address: Address) -> None:
    others = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s", (IN_USE,)
    ).fetchone()
    if others != (0,):
        raise StoreError(
            f"{address} needs an update while other processes use it: stop Flowork on every machine, then start it "
            "again"
        )


def _apply(connection: Connection, address: Address, steps: Sequence[tuple[str, Migration]]) -> None:
    """All steps in one transaction: Postgres takes back changes of the schema too."""
    with connection.transaction():
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute(
            'CREATE TABLE IF NOT EXISTS schema_version (part TEXT COLLATE "C" PRIMARY KEY, version INTEGER NOT NULL)'
        )
        for part, step in steps:
            try:
                for statement in translated(step):
                    connection.execute(statement.encode())
            except psycopg.ProgrammingError as exc:
                raise StoreError(
                    f"{address} could not be updated: step {step.number} of its {part} ({step.title}): {exc}; nothing "
                    "was changed"
                ) from exc
            connection.execute(
                "INSERT INTO schema_version VALUES (%s, %s) "
                "ON CONFLICT (part) DO UPDATE SET version = EXCLUDED.version",
                (part, step.number),
            )
