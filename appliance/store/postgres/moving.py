"""Moving an engine's data between its folder and Postgres: every row is written, read back and compared.

A move can be cut off at any point and begun again: what one transaction holds (the flows and people; a day of runs) is
there whole or not at all, and what is there already is only compared. The side that is moved from is changed by nothing
but a note, once all is done, which keeps an engine from going on with the old data by mistake.

What stays in the data folder: ``keys/`` (secrets are sealed under them), ``files/``, ``packages/``, ``memory.db`` and
models.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from appliance.store import shards
from appliance.store.errors import StoreError
from appliance.store.errors import explained as file_explained
from appliance.store.journal import PEERS, StateOp
from appliance.store.migrations import pending as file_pending
from appliance.store.moved import forget, moved_to, moving_from, note_moved, note_moving
from appliance.store.opening import DATABASE
from appliance.store.postgres.blobs import PostgresBlobs
from appliance.store.postgres.connecting import IN_USE, OPENING, Address, Connection, address_of, connect, explained
from appliance.store.postgres.days import days, drop_day, make_day
from appliance.store.postgres.export import (
    OF_DAY,
    blob_names,
    export_blob,
    export_day,
    export_store,
    proofs_of_day,
    proofs_of_shard,
    snapshot,
)
from appliance.store.postgres.opening import MOVED, MOVING, pending, prepare
from appliance.store.postgres.rows import (
    Proof,
    Row,
    columns_of,
    counted,
    file_rows,
    proved,
    server_rows,
    tables,
    to_server,
)
from appliance.store.sqlite_file import check_database, replace_file, sync_folder
from appliance.store.sqlite_file import connect as open_file

#: ``tell(done, in all, what is being worked on)``: rows and blobs, each written and compared.
Tell = Callable[[int, int, str], None]
_STATE = ["flow", "key", "value", "ver"]
#: Days whose ids of unique events count (``Journal.run_of_key``).
_KEYS_DAYS = 2


class Moved(Struct, frozen=True, kw_only=True):
    """What a move did; ``left_out`` names blobs that were damaged before, ``set_aside`` where older files are now."""

    to: str
    rows: int
    days: int
    blobs: int
    left_out: list[str] = []
    set_aside: str = ""


class _Work:
    """Counts what is done, for whoever looks."""

    def __init__(self, total: int, tell: Tell) -> None:
        self._done, self._total, self._tell = 0, total, tell
        self.what = ""

    def __call__(self, count: int) -> None:
        self._done += count
        self._tell(min(self._done, self._total), self._total, self.what)


# --- into the server -------------------------------------------------------------------------------


def move_to_server(data: Path, url: str, engine: str, tell: Tell, now: Callable[[], float] = time.time) -> Moved:
    """Bring everything from ``data`` into the empty database ``url``. The engine must not run; ``engine`` is its id.

    Raises ``StoreError``; called again, it goes on where it was cut off.
    """
    address = address_of(url)
    with file_explained(data / DATABASE):
        _check_folder(data, address)
    prepare(url, None, now)
    with explained(url), closing(connect(url, name=OPENING)) as connection, file_explained(data / DATABASE):
        _alone(connection, address)
        done = _begin(connection, address, engine)
        found = sorted(shards.days(data))
        blobs = sorted(path for path in (data / "blobs").glob("??/*") if len(path.name) == 64)
        work = _Work(2 * _count(data, found) + 2 * len(blobs), tell)
        with closing(open_file(data / DATABASE)) as file:
            state = _state_of(data, file, found)
            if "store" not in done:
                work.what = "flows, people, settings"
                _import_store(connection, file, state, work)
            for day in found:
                if day not in done:
                    work.what = day
                    _import_day(connection, data, day, work)
            left_out = _import_blobs(url, blobs, work)
            rows = _compare_all(connection, address, data, file, state, work)
        # First the note here: at no time may an engine start on both sides.
        note_moved(data, str(address), now())
        _finish(connection)
    return Moved(to=str(address), rows=rows, days=len(found), blobs=len(blobs) - len(left_out), left_out=left_out)


def _check_folder(data: Path, address: Address) -> None:
    path = data / DATABASE
    if (moved := moved_to(data)) is not None and moved.other != str(address):
        raise StoreError(f"this engine's data has moved to {moved.other} already", retryable=False)
    if not path.exists():
        raise StoreError(f"there is no {DATABASE} in {data}: nothing to move to {address}", retryable=False)
    if damage := check_database(path):
        raise StoreError(f"{path} is damaged ({damage}): start Flowork once, which restores its last good copy")
    if file_pending(path):
        raise StoreError(f"{path} is of an older Flowork: start this version once, then move", retryable=False)


def _alone(connection: Connection, address: Address) -> None:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    if connection.execute(sql, (IN_USE,)).fetchone() != (0,):
        raise StoreError(f"{address} is in use: stop Flowork on every machine, then move", retryable=False)


def _begin(connection: Connection, address: Address, engine: str) -> set[str]:
    """The steps that an earlier try has done. Raises ``StoreError`` for a database that holds something else."""
    if connection.execute("SELECT to_regclass('moving')").fetchone() == (None,):
        filled = [table for table in (*tables(), "run", "blob") if _has_rows(connection, table)]
        if filled:
            raise StoreError(
                f"{address} is not empty (there is something in {', '.join(filled[:3])}): name an empty database",
                retryable=False,
            )
        with connection.transaction():
            connection.execute("CREATE TABLE moving (step TEXT PRIMARY KEY)")
            connection.execute("INSERT INTO moving VALUES (%s)", (f"engine {engine}",))
            connection.execute("INSERT INTO schema_version VALUES (%s, 1)", (MOVING,))
    done = {row[0] for row in connection.execute("SELECT step FROM moving")}
    if f"engine {engine}" not in done:
        raise StoreError(f"another engine is being moved to {address}: name an empty database", retryable=False)
    return done


def _has_rows(connection: Connection, table: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} LIMIT 1".encode()).fetchone() is not None


def _count(data: Path, found: Sequence[str]) -> int:
    """Rows of the largest tables: enough for a progress bar."""
    total = 0
    for day in found:
        with closing(shards.open_reader(shards.shard_path(data, day))) as file:
            total += sum(file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("run", "chunk"))
    return total


def _state_of(data: Path, file: sqlite3.Connection, found: Sequence[str]) -> list[Row]:
    """The durable values of flows: what flowork.db has, and the changes in the shards that it lacks."""
    rows = {(flow, key): (flow, key, value, ver) for flow, key, value, ver in file_rows(file, "flow_state", _STATE)}
    marker = file.execute("SELECT coalesce(max(value), 0) FROM counter WHERE name = 'state_version'").fetchone()[0]
    ops: list[StateOp] = []
    for day in found:
        with closing(shards.open_reader(shards.shard_path(data, day))) as shard:
            sql = "SELECT ver, flow, key, value FROM state_op WHERE ver > ?"
            ops += [StateOp(*row) for row in shard.execute(sql, (marker,))]
    for op in sorted(ops):
        if op.value is None:
            rows.pop((op.flow, op.key), None)
        else:
            rows[op.flow, op.key] = (op.flow, op.key, op.value, op.ver)
    # What an earlier cluster of this engine kept of its peers is older than the data folder's own.
    return [row for row in rows.values() if row[0] != PEERS]


def _import_store(connection: Connection, file: sqlite3.Connection, state: Sequence[Row], work: _Work) -> None:
    with connection.transaction():
        connection.execute("SET CONSTRAINTS ALL DEFERRED")
        for table in tables():
            columns = columns_of(file, table)
            rows = state if table == "flow_state" else file_rows(file, table, columns)
            to_server(connection, table, _STATE if table == "flow_state" else columns, rows)
        for table, number in file.execute("SELECT name, seq FROM sqlite_sequence").fetchall():
            key = next(row[1] for row in file.execute(f"PRAGMA table_info({table})") if row[5])
            sql = f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), greatest(%s, 1), %s > 0)"
            connection.execute(sql.encode(), (number, number))
        connection.execute("INSERT INTO moving VALUES ('store')")
    work(0)


def _import_day(connection: Connection, data: Path, day: str, work: _Work) -> None:
    if day in days(connection):
        drop_day(connection, day)
    make_day(connection, day)
    with closing(shards.open_reader(shards.shard_path(data, day))) as file, connection.transaction():
        for table, (columns, _) in OF_DAY.items():
            rows = file_rows(file, table, columns)
            to_server(connection, table, columns, counted(rows, work) if table in ("run", "chunk") else rows)
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO event_key VALUES (%s, %s) ON CONFLICT (key) DO UPDATE "
                "SET run = greatest(event_key.run, EXCLUDED.run)",
                [(key.encode(), run) for key, run in file_rows(file, "event_key", ["key", "run"])],
            )
        connection.execute("INSERT INTO moving VALUES (%s)", (day,))


def _import_blobs(url: str, paths: Sequence[Path], work: _Work) -> list[str]:
    """Which were damaged, and so were left out."""
    left_out: list[str] = []
    work.what = "large values"
    with closing(PostgresBlobs(url, name=OPENING)) as blobs:
        for path in paths:
            size = path.stat().st_size
            if not blobs.keep(path.name, size):
                reference = blobs.put(path.read_bytes())
                if reference["$blob"] != path.name:
                    blobs.delete(reference["$blob"])
                    left_out.append(f"blobs/{path.parent.name}/{path.name}: damaged")
            if not (left_out and left_out[-1].startswith(f"blobs/{path.parent.name}/{path.name}")):
                blobs.get({"$blob": path.name, "size": size})  # whose hash is its name
            work(2)
    return left_out


def _compare_all(
    connection: Connection, address: Address, data: Path, file: sqlite3.Connection, state: Sequence[Row], work: _Work
) -> int:
    """Read everything back; how many rows there are. Raises ``StoreError`` for the first table that differs."""
    count = 0
    with snapshot(connection):
        for table in tables():
            columns = _STATE if table == "flow_state" else columns_of(file, table)
            theirs = proved(state if table == "flow_state" else file_rows(file, table, columns))
            count += _same(theirs, proved(server_rows(connection, table, columns)), address, table)
        for number, day in enumerate(found := sorted(shards.days(data))):
            work.what = f"comparing {day}"
            with closing(shards.open_reader(shards.shard_path(data, day))) as shard:
                ours, mine = proofs_of_shard(shard), proofs_of_day(connection, day)
                for table in OF_DAY:
                    count += _same(ours[table], mine[table], address, f"{table} of {day}")
                if number >= len(found) - _KEYS_DAYS:
                    _compare_keys(connection, shard, address)
            work(ours["run"].count + ours["chunk"].count)
    return count


def _compare_keys(connection: Connection, shard: sqlite3.Connection, address: Address) -> None:
    for key, run in file_rows(shard, "event_key", ["key", "run"]):
        row = connection.execute("SELECT run FROM event_key WHERE key = %s", (key.encode(),)).fetchone()
        if row is None or row[0] < run:
            raise _differs(address, "event_key")


def _same(theirs: Proof, ours: Proof, address: Address, table: str) -> int:
    if theirs != ours:
        raise _differs(address, f"{table} ({theirs.count} rows there, {ours.count} here)")
    return ours.count


def _differs(address: Address, table: str) -> StoreError:
    return StoreError(
        f"what arrived is not what was sent: {table}, between the folder and {address}. Nothing was switched over; "
        "move into a fresh place",
        retryable=False,
    )


def _finish(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("DROP TABLE moving")
        connection.execute("DELETE FROM schema_version WHERE part = %s", (MOVING,))
    connection.execute("ANALYZE")


# --- back into a folder ----------------------------------------------------------------------------


def move_to_folder(url: str, data: Path, tell: Tell, now: Callable[[], float] = time.time) -> Moved:
    """Bring everything from the database ``url`` into the folder ``data``. No engine may run on either.

    Files of an engine that was moved away from this folder before are put aside. Raises ``StoreError``; called again,
    it goes on where it was cut off.
    """
    address = address_of(url)
    if pending(url):
        raise StoreError(f"{address} is of an older Flowork: start this version once, then move", retryable=False)
    with explained(url), closing(connect(url, name=OPENING)) as connection, file_explained(data / DATABASE):
        _alone(connection, address)
        aside = _make_place(data, address, now())
        with snapshot(connection):
            found, blobs = sorted(days(connection)), blob_names(connection)
            total = connection.execute("SELECT (SELECT count(*) FROM run) + (SELECT count(*) FROM chunk)").fetchone()
            work = _Work((total or (0,))[0] + len(blobs), tell)
            rows = sum(_export_day(connection, address, data, day, work) for day in found)
            work.what = "large values"
            for digest, size in blobs:
                path = data / "blobs" / digest[:2] / digest
                if not path.exists() or path.stat().st_size != size:
                    export_blob(connection, digest, path)
                work(1)
            rows += _export_store(connection, address, data)
        connection.execute("INSERT INTO schema_version VALUES (%s, 1) ON CONFLICT DO NOTHING", (MOVED,))
    forget(data)
    return Moved(to=str(data), rows=rows, days=len(found), blobs=len(blobs), set_aside=aside)


def _make_place(data: Path, address: Address, now: float) -> str:
    """Make room for what comes; where the files of an earlier move are now. Raises ``StoreError``."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    coming = moving_from(data)
    if coming is not None:
        if coming.other != str(address):
            raise StoreError(f"{data} is half filled from {coming.other}: choose another folder", retryable=False)
        return ""
    old = [path for path in (data / DATABASE, shards.runs_folder(data)) if path.exists()]
    aside = ""
    if old:
        if moved_to(data) is None:
            raise StoreError(f"{data} holds an engine's data already: choose an empty folder", retryable=False)
        place = data / time.strftime("before-move-%Y%m%dT%H%M%SZ", time.gmtime(now))
        place.mkdir(mode=0o700)
        for path in [*old, *data.glob(f"{DATABASE}-*")]:
            path.rename(place / path.name)
        aside = str(place)
    note_moving(data, str(address), now)
    return aside


def _export_day(connection: Connection, address: Address, data: Path, day: str, work: _Work) -> int:
    path = shards.shard_path(data, day)
    fresh = path.with_name(f"{path.name}.new")
    work.what = day
    if path.exists():
        theirs = proofs_of_day(connection, day)
        work(theirs["run"].count + theirs["chunk"].count)
    else:
        theirs = export_day(connection, day, fresh, work)
    with closing(shards.open_reader(path if path.exists() else fresh)) as file:
        ours = proofs_of_shard(file)
    count = sum(_same(theirs[table], ours[table], address, f"{table} of {day}") for table in OF_DAY)
    if not path.exists():
        for side in shards.files_of(fresh)[1:]:
            side.unlink(missing_ok=True)
        replace_file(fresh, path)
    return count


def _export_store(connection: Connection, address: Address, data: Path) -> int:
    """The database last: until it is there nobody takes the folder for an engine's."""
    fresh = data / f"{DATABASE}.new"
    theirs = export_store(connection, fresh)
    with closing(open_file(fresh)) as file:
        ours = {table: proved(file_rows(file, table, columns_of(file, table))) for table in theirs}
        file.execute("PRAGMA journal_mode=WAL").fetchone()
    count = sum(_same(theirs[table], ours[table], address, table) for table in theirs)
    if damage := check_database(fresh):
        raise StoreError(f"{fresh} is not sound: {damage}", retryable=False)
    replace_file(fresh, data / DATABASE)
    sync_folder(data)
    return count
