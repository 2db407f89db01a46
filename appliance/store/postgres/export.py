"""An engine's data from Postgres in the form that it has in a folder: for moving back, for backups, for a trial run.

Everything is read within one transaction of the caller (:func:`snapshot`), and so as of one moment.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from appliance.store import shards
from appliance.store.journal import RUN_COLUMNS
from appliance.store.migrations import migrate
from appliance.store.postgres.connecting import Connection, explained
from appliance.store.postgres.connecting import connect as connect_server
from appliance.store.postgres.days import bounds
from appliance.store.postgres.rows import Proof, columns_of, counted, file_rows, proved, server_rows, tables, to_file
from appliance.store.runids import SPAN_BITS
from appliance.store.sqlite_file import connect, remove_database

#: A day's tables, with the columns that shards have too and the one with the run's id.
OF_DAY = {
    "run": (RUN_COLUMNS.split(", "), "id"),
    "chunk": (["run", "seq", "data"], "run"),
    "blob_use": (["hash", "run"], "run"),
    "letter_note": (["run", "at", "who", "reason"], "run"),
}
Tell = Callable[[int], None]


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """All that is read in the block is of one moment; other kernels go on."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # What was read is packed or written to a slow disk meanwhile.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield


def copy_store(url: str, path: Path) -> None:
    """Flows, people and settings of a database as a new ``flowork.db``. Raises ``StoreError``."""
    with explained(url), closing(connect_server(url)) as connection, snapshot(connection):
        export_store(connection, path)


def export_store(connection: Connection, path: Path) -> dict[str, Proof]:
    """Flows, people and settings as a new ``flowork.db`` at ``path``; what was read of each table."""
    remove_database(path)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    migrate(path)
    proofs: dict[str, Proof] = {}
    with closing(connect(path)) as file:
        file.execute("BEGIN")
        for table in tables():
            columns = columns_of(file, table)
            proofs[table] = proof = Proof()
            to_file(file, table, columns, proof.of(server_rows(connection, table, columns)))
        for table, number in _numbers(connection):
            file.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            file.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))
        file.execute("COMMIT")
    return proofs


def _numbers(connection: Connection) -> Iterator[tuple[str, int]]:
    """The last number that each numbered table has given out."""
    found = connection.execute(
        "SELECT table_name, pg_get_serial_sequence(table_name, column_name) FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND is_identity = 'YES'"
    ).fetchall()
    for table, sequence in found:
        sql = f"SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM {sequence}"
        row = connection.execute(sql.encode()).fetchone()
        yield table, int(row[0]) if row else 0


def export_day(connection: Connection, day: str, path: Path, tell: Tell = lambda rows: None) -> dict[str, Proof]:
    """A day's runs as a new shard at ``path``; what was read of each table."""
    remove_database(path)
    span = bounds(day)
    proofs: dict[str, Proof] = {}
    with closing(shards.open_writer(path, sync=False)) as file:
        file.execute("BEGIN")
        for table, (columns, key) in OF_DAY.items():
            where = f'WHERE "{key}" >= %s AND "{key}" < %s'
            proofs[table] = proof = Proof()
            rows = proof.of(server_rows(connection, table, columns, where, span))
            to_file(file, table, columns, counted(rows, tell))
        keys = connection.execute("SELECT key, run FROM event_key WHERE run >= %s AND run < %s", span)
        to_file(file, "event_key", ["key", "run"], ((key.decode(errors="replace"), run) for key, run in keys))
        file.execute(f"INSERT INTO flow_span SELECT DISTINCT flow, id >> {SPAN_BITS} FROM run")
        file.execute("COMMIT")
    return proofs


def proofs_of_shard(file: sqlite3.Connection) -> dict[str, Proof]:
    """What a shard holds."""
    return {table: proved(file_rows(file, table, columns)) for table, (columns, _) in OF_DAY.items()}


def proofs_of_day(connection: Connection, day: str) -> dict[str, Proof]:
    """What a day holds."""
    span = bounds(day)
    found = {}
    for table, (columns, key) in OF_DAY.items():
        found[table] = proved(server_rows(connection, table, columns, f'WHERE "{key}" >= %s AND "{key}" < %s', span))
    return found


def blob_names(connection: Connection) -> list[tuple[str, int]]:
    """Every blob: digest and size."""
    return connection.execute("SELECT encode(digest, 'hex'), size FROM blob ORDER BY digest").fetchall()


def export_blob(connection: Connection, digest: str, path: Path) -> None:
    """A blob as a file that appears when it is whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{digest}.tmp")
    with fresh.open("wb") as file, connection.cursor("pieces", binary=True) as cursor:
        cursor.itersize = 4
        cursor.execute("SELECT data FROM blob_piece WHERE digest = %s ORDER BY number", (bytes.fromhex(digest),))
        for (piece,) in cursor:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
