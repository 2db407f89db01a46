"""The journal in shards: one SQLite file a day.

Only one thread of one process writes at a time (the kernel's engine thread; the gateway while there is no
kernel). A run lives in the shard of its id's day for ever, so one run is never spread over two files.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from appliance.store import shards
from appliance.store.journal import RUN_COLUMNS, Batch, Journal, RunRow, StateOp
from appliance.store.runids import SPAN_BITS, RunIds, day_of, span_of
from appliance.store.salvage import salvage
from appliance.store.shards import StoreFailure

logger = logging.getLogger(__name__)

_WIDTH = 14
#: Rows per multi-row INSERT: one statement for many rows gives up Python's lock once instead of once a row.
_BLOCK = 64
#: OR REPLACE everywhere: a commit that failed half-way (over two days, or in an unlucky sync) is simply made again.
_INSERT_ONE = f"INSERT OR REPLACE INTO run ({RUN_COLUMNS}) VALUES ({', '.join('?' * _WIDTH)})"
_INSERT_BLOCK = _INSERT_ONE + f", ({', '.join('?' * _WIDTH)})" * (_BLOCK - 1)
_KEPT_OPEN = 3
#: Commits of a day from which on more are to be expected than what lengthening its log costs.
_WORTH_A_LOG = 16


class ShardJournal(Journal):
    """The shards, open for writing. ``power`` durability syncs every commit, ``process`` none."""

    def __init__(self, data: Path, *, writer: int, sync: bool = True) -> None:
        self._data = data
        self._sync = sync
        self._writer = writer
        self._open: dict[str, sqlite3.Connection] = {}
        self._lock = threading.Lock()
        self.ids = RunIds(writer)
        self.damaged: list[str] = []
        #: Grows with every write to a day; a rewrite that finds it grown begins anew.
        self.writes: dict[str, int] = {}
        self._moved: dict[str, int] = {}
        #: The newest span that is noted for each flow.
        self._spans: dict[int, int] = {}

    def open(self) -> None:
        """Find the newest id, so that ids grow over restarts. Damaged shards are set aside and named.

        Raises ``StoreFailure``.
        """
        try:
            days = shards.days(self._data)
        except OSError as exc:
            raise StoreFailure(f"the folder of the runs cannot be read: {exc}") from exc
        for day in days:
            newest = self._read(day, "SELECT max(id) FROM run")[0][0]
            if newest is not None:
                self.ids = RunIds(self._writer, newest)
                break

    def close(self) -> None:
        """Checkpoint and close. Calling it twice is fine."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _shard(self, day: str) -> sqlite3.Connection:
        """The open shard of a day; those that were used last stay open."""
        connection = self._open.pop(day, None)
        if connection is None:
            connection = self._open_shard(day)
        with self._lock:
            self._open[day] = connection
            while len(self._open) > _KEPT_OPEN:
                self._open.pop(next(iter(self._open))).close()
        return connection

    def _open_shard(self, day: str) -> sqlite3.Connection:
        path = shards.shard_path(self._data, day)
        try:
            return shards.open_writer(path, sync=self._sync)
        except (sqlite3.Error, OSError) as exc:
            if not (isinstance(exc, sqlite3.Error) and shards.is_damage(exc)):
                raise StoreFailure(f"{path.name}: {exc}") from exc
            return self._replace(day, exc)

    def _replace(self, day: str, error: sqlite3.Error) -> sqlite3.Connection:
        """Put a damaged shard aside; what is under way goes on in a new one as far as it can be read."""
        path = shards.shard_path(self._data, day)
        try:
            aside = shards.set_aside(self._data, path, str(error))
            self.damaged.append(str(aside))
            connection = shards.open_writer(path, sync=self._sync)
        except (sqlite3.Error, OSError) as exc:
            raise StoreFailure(f"{path.name} is damaged and cannot be replaced: {exc}") from exc
        try:
            salvage(aside, connection)
        except sqlite3.Error as exc:
            logger.error("nothing could be saved from %s: %s", aside.name, exc)
        return connection

    def _read(self, day: str, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of a query. A damaged shard is replaced first; raises ``StoreFailure`` if the disk refuses."""
        for last in (False, True):
            try:
                return self._shard(day).execute(sql, values).fetchall()
            except sqlite3.Error as exc:
                self._after_failure(day, exc)
                if last or not shards.is_damage(exc):
                    raise StoreFailure(f"runs/{day}.db: {exc}") from exc
        raise AssertionError

    def commit(self, batch: Batch) -> None:
        """Write all of a batch; on return it is on disk. Raises ``StoreFailure``, and then it can be made again."""
        for day, part in _by_day(batch).items():
            spans = {(row.flow, span_of(row.id)) for row in part.runs}
            fresh = [(flow, span) for flow, span in spans if self._spans.get(flow) != span]
            self._write(day, partial(_write, batch=part, spans=fresh))
            self._spans.update(fresh)

    def _write(self, day: str, work: Callable[[sqlite3.Connection], object]) -> None:
        """One transaction. Raises ``StoreFailure``."""
        self.writes[day] = self.writes.get(day, 0) + 1
        try:
            connection = self._shard(day)
            connection.execute("BEGIN IMMEDIATE")
            try:
                work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as exc:
            self._after_failure(day, exc)
            raise StoreFailure(f"runs/{day}.db: {exc}") from exc

    def _after_failure(self, day: str, error: Exception) -> None:
        """A damaged shard is replaced, any other opened anew: the caller's next try meets a fresh connection."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}:
            return
        self.forget(day)
        if isinstance(error, sqlite3.Error) and shards.is_damage(error):
            self._open[day] = self._replace(day, error)

    def probe(self) -> None:
        """Write something harmless to the newest shard. Raises ``StoreFailure`` while the disk refuses."""
        for day in shards.days(self._data)[:1]:
            self._write(day, lambda one: one.execute(f"PRAGMA user_version={shards.VERSION}"))

    def forget(self, day: str) -> None:
        """Close a shard that is about to be rewritten or deleted."""
        self._spans.clear()
        with self._lock:
            connection = self._open.pop(day, None)
            if connection is not None:
                connection.close()

    def run_of_key(self, key: str) -> int | None:
        """The run that a unique event started, looked up in the newest two shards."""
        for day in shards.days(self._data)[:2]:
            found = self._read(day, "SELECT run FROM event_key WHERE key = ?", (key,))
            if found:
                return int(found[0][0])
        return None

    def recent_events(self, flow: int, trigger: str, limit: int) -> Iterator[tuple[int, bytes]]:
        """The newest runs of a trigger (id, packed event), newest first, from the newest two shards."""
        left = limit
        for day in shards.days(self._data)[:2]:
            for (span,) in self._read(day, "SELECT span FROM flow_span WHERE flow = ? ORDER BY span DESC", (flow,)):
                first, behind = span << SPAN_BITS, (span + 1) << SPAN_BITS
                sql = "SELECT id, trigger FROM run WHERE id >= ? AND id < ? AND flow = ? ORDER BY id DESC LIMIT ?"
                rows = self._read(day, sql, (first, behind, flow, left))
                left -= len(rows)
                for run in (number for number, by in rows if by == trigger):
                    for row in self._read(day, "SELECT event FROM run WHERE id = ?", (run,)):
                        yield run, row[0]
                if left <= 0:
                    return

    def under_way(self, newest: int | None = None) -> Iterator[tuple[RunRow, list[bytes]]]:
        """Every run that has not ended, oldest first, with its further chunks; of the ``newest`` shards if given."""
        sql = f"SELECT {RUN_COLUMNS} FROM run WHERE state < 10 ORDER BY id"
        for day in reversed(shards.days(self._data)[:newest]):
            for row in self._read(day, sql):
                yield RunRow(*row), self._chunks(day, row[0])

    def _chunks(self, day: str, run: int) -> list[bytes]:
        return [row[0] for row in self._read(day, "SELECT data FROM chunk WHERE run = ? ORDER BY seq", (run,))]

    def load(self, run: int) -> tuple[RunRow, list[bytes]] | None:
        """One run with its further chunks, or None."""
        day = day_of(run)
        if day not in self._open and not shards.shard_path(self._data, day).exists():
            return None
        for row in self._read(day, f"SELECT {RUN_COLUMNS} FROM run WHERE id = ?", (run,)):
            return RunRow(*row), self._chunks(day, run)
        return None

    def children(self, parent: int) -> Iterator[tuple[RunRow, list[bytes]]]:
        """The child runs of a run, oldest first."""
        first = day_of(parent)
        sql = f"SELECT {RUN_COLUMNS} FROM run WHERE parent = ? ORDER BY id"
        for day in reversed(shards.days(self._data)):
            if day >= first:
                for row in self._read(day, sql, (parent,)):
                    yield RunRow(*row), self._chunks(day, row[0])

    def state_ops(self, after: int) -> list[StateOp]:
        """The changes of durable values later than number ``after``, in order."""
        found: list[StateOp] = []
        for day in shards.days(self._data):
            rows = self._read(day, "SELECT ver, flow, key, value FROM state_op WHERE ver > ?", (after,))
            found += [StateOp(*row) for row in rows]
        return sorted(found)

    def drop_state_ops(self, upto: int) -> None:
        """Forget changes that flowork.db has now. Raises ``StoreFailure``."""
        for day in shards.days(self._data):
            if self._read(day, "SELECT 1 FROM state_op WHERE ver <= ? LIMIT 1", (upto,)):
                self._write(day, lambda one: one.execute("DELETE FROM state_op WHERE ver <= ?", (upto,)))

    def set_letter(self, run: int, letter: int, who: str, reason: str, at: int) -> bool:
        """Move a run on or off the dead-letter list. False if there is no such run. Raises ``StoreFailure``."""
        if self.load(run) is None:
            return False

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE run SET letter = ? WHERE id = ?", (letter, run))
            connection.execute("INSERT OR REPLACE INTO letter_note VALUES (?, ?, ?, ?)", (run, at, who, reason))

        self._write(day_of(run), work)
        return True

    def mark(self) -> tuple[tuple[str, int, int], ...]:
        """Changes whenever anybody writes to the newest two shards. Looked at from outside: even a read
        transaction would dirty a page of SQLite's shared memory file, which the system then writes to the card.
        """
        found = []
        for day in shards.days(self._data)[:2]:
            for file in shards.files_of(shards.shard_path(self._data, day))[:2]:
                try:
                    status = file.stat()
                except FileNotFoundError:
                    continue
                found.append((file.name, status.st_size, status.st_mtime_ns))
        return tuple(found)

    def uncheckpointed(self) -> dict[str, int]:
        """How many transactions each shard has seen since its WAL was last moved into it."""
        return {day: self.writes.get(day, 0) - self._moved.get(day, 0) for day in list(self._open)}

    def lengthen(self) -> None:
        day = max(list(self._open), default="")
        if self._sync and self.writes.get(day, 0) >= _WORTH_A_LOG:
            shards.lengthen_log(shards.shard_path(self._data, day))

    def checkpoint(self, day: str) -> None:
        """Move a WAL into its file, on a connection of its own: never on the engine's thread."""
        self._moved[day] = self.writes.get(day, 0)
        path = shards.shard_path(self._data, day)
        connection = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=0, isolation_level=None)
        try:
            connection.execute(f"PRAGMA synchronous={'FULL' if self._sync else 'NORMAL'}")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            connection.close()


def chunks_of(connection: sqlite3.Connection, run: int) -> list[bytes]:
    """A run's chunks behind the first."""
    return [row[0] for row in connection.execute("SELECT data FROM chunk WHERE run = ? ORDER BY seq", (run,))]


def _by_day(batch: Batch) -> dict[str, Batch]:
    """The batch by shard. Nearly always there is one day, found by comparing with the first run's."""
    ids = [r.id for r in batch.runs] + [u.id for u in batch.updates] + [c[0] for c in batch.chunks]
    ids += [run for run, _ in batch.ops] + [run for _, run in batch.keys]
    if not ids:
        return {}
    low, high = day_of(min(ids)), day_of(max(ids))
    if low == high:
        return {low: batch}
    return batch.split(day_of)


def _write(connection: sqlite3.Connection, batch: Batch, spans: list[tuple[int, int]]) -> None:
    _insert_runs(connection, batch.runs)
    if spans:
        connection.executemany("INSERT OR IGNORE INTO flow_span VALUES (?, ?)", spans)
    if batch.chunks:
        connection.executemany("INSERT OR REPLACE INTO chunk (run, seq, data) VALUES (?, ?, ?)", batch.chunks)
    if batch.updates:
        connection.executemany(
            "UPDATE run SET state = ?, finished = ?, error = ?, letter = ? WHERE id = ?",
            [(u.state, u.finished, u.error, u.letter, u.id) for u in batch.updates],
        )
    if batch.ops:
        connection.executemany("INSERT OR REPLACE INTO state_op VALUES (?, ?, ?, ?)", [op for _, op in batch.ops])
    if batch.keys:
        connection.executemany("INSERT OR IGNORE INTO event_key VALUES (?, ?)", batch.keys)
    if batch.blobs:
        connection.executemany("INSERT OR IGNORE INTO blob_use VALUES (?, ?)", batch.blobs)


def _insert_runs(connection: sqlite3.Connection, rows: list[RunRow]) -> None:
    whole = len(rows) - len(rows) % _BLOCK
    for start in range(0, whole, _BLOCK):
        values: list[object] = []
        for row in rows[start : start + _BLOCK]:
            values.extend(row)
        connection.execute(_INSERT_BLOCK, values)
    if whole < len(rows):
        connection.executemany(_INSERT_ONE, rows[whole:])
