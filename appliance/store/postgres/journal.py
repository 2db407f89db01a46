"""The journal in Postgres: any number of kernels, each with a writer's number of its own, commit into one database.

A commit is one transaction in one round trip (pipeline mode). It is made again as it is after a lost connection, when
nobody knows whether the server had done it: everything is written so that a second time does no harm.

Durable values of flows are written where they are kept (``flow_state``), in the transaction of the run that changed
them: there are no single changes to be applied later, as in the shards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from appliance.store.errors import EventTaken, LeaseLost
from appliance.store.journal import RUN_COLUMNS, Batch, Journal, RunRow, StateOp
from appliance.store.postgres.connecting import Connection, connect, explain, is_lost
from appliance.store.postgres.days import bounds, make_day
from appliance.store.postgres.run_schema import EVENT_TAKEN, LEASE_LOST
from appliance.store.runids import RunIds, day_of, first_of, moment
from appliance.store.shards import StoreFailure

T = TypeVar("T")

#: Seconds for which a server that could not be reached is not tried again: the engine's thread has other work.
REST = 1.0
#: Seconds that connecting may take while the engine waits.
PATIENCE = 2.0
_DAY = 86_400.0
_AT_ONCE = 200

_TYPES = ("bigint[]",) * 3 + ("text[]", "smallint[]", "bigint[]", "bigint[]", "text[]", "bytea[]", "bytea[]")
_RUN_ARRAYS = ", ".join(f"%b::{kind}" for kind in (*_TYPES, "bigint[]", "bigint[]", "smallint[]", "bytea[]"))
_CHANGING = ("state", "finished", "error", "letter", "steps")
_INSERT_RUNS = (
    f"INSERT INTO run ({RUN_COLUMNS}, owner) SELECT new.*, %b::smallint FROM unnest({_RUN_ARRAYS}) AS new "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = EXCLUDED.{name}' for name in _CHANGING)}"
).encode()
_INSERT_CHUNKS = (
    b"INSERT INTO chunk SELECT * FROM unnest(%b::bigint[], %b::int[], %b::bytea[]) "
    b"ON CONFLICT (run, seq) DO UPDATE SET data = EXCLUDED.data"
)
# The bounds keep the server from looking into every day.
_UPDATE_RUNS = (
    b"UPDATE run SET state = new.state, finished = new.finished, error = new.error, letter = new.letter "
    b"FROM unnest(%b::bigint[], %b::smallint[], %b::bigint[], %b::bytea[], %b::smallint[]) "
    b"AS new(id, state, finished, error, letter) WHERE run.id = new.id AND run.id BETWEEN %b AND %b"
)
_PUT_VALUES = (
    b"INSERT INTO flow_state (flow, key, value, ver) "
    b"SELECT * FROM unnest(%b::bigint[], %b::text[], %b::bytea[], %b::bigint[]) "
    b"ON CONFLICT (flow, key) DO UPDATE SET value = EXCLUDED.value, ver = EXCLUDED.ver"
)
_DROP_VALUES = (
    b"DELETE FROM flow_state USING unnest(%b::bigint[], %b::text[]) AS gone(flow, key) "
    b"WHERE flow_state.flow = gone.flow AND flow_state.key = gone.key"
)
_USE_BLOBS = b"INSERT INTO blob_use SELECT * FROM unnest(%b::text[], %b::bigint[]) ON CONFLICT DO NOTHING"


class PostgresJournal(Journal):
    """One connection, used by one thread at a time."""

    def __init__(self, url: str, *, writer: int, sync: bool = True, shared: bool = False) -> None:
        self._url = url
        self._writer = writer
        self._owner = None if shared else writer
        self._sync = sync
        self._connection: Connection | None = None
        self._lock = threading.RLock()
        self._days: set[str] = set()
        self._away_until = 0.0
        self._away = ""
        self._mark: object = None
        self.ids = RunIds(writer)
        self.damaged = []
        self.writes = {}

    def open(self) -> None:
        found = self._read(b"SELECT max(id) FROM run")[0][0]
        if found is not None:
            self.ids = RunIds(self._writer, found)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    # --- the connection ---

    def _do(self, work: Callable[[Connection], T]) -> T:
        """Carry out what may be done twice. Raises ``StoreFailure``; other errors for what no server could take."""
        with self._lock:
            for last in (False, True):
                fresh = self._connection is None
                try:
                    return work(self._reach())
                except psycopg.Error as exc:
                    lost = self._tidy()
                    # A connection that lay idle breaks when the server is started again: that is worth another try.
                    if last or fresh or not lost:
                        raise self._said(exc) from exc
        raise AssertionError

    def _reach(self) -> Connection:
        if self._connection is None:
            if time.monotonic() < self._away_until:
                raise StoreFailure(self._away)
            try:
                self._connection = connect(self._url, sync=self._sync, patience=PATIENCE)
            except psycopg.Error as exc:
                self._away_until = time.monotonic() + REST
                self._away = explain(exc, self._url).message
                raise
        return self._connection

    def _tidy(self) -> bool:
        """Make the connection fit for use behind an error; True if it is lost."""
        connection = self._connection
        if connection is None:
            return True
        if not is_lost(connection) and connection.info.transaction_status != TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                connection.close()
        if is_lost(connection):
            self.close()
            return True
        return False

    def _said(self, error: psycopg.Error) -> Exception:
        if error.sqlstate == LEASE_LOST:
            return LeaseLost(f"another kernel has taken over from writer {self._writer}; this one stops")
        explained = explain(error, self._url)
        # What a value is to blame for is not the server's failure: the keeper looks for the run that it belongs to.
        return explained if isinstance(error, psycopg.DataError) else StoreFailure(explained.message)

    def _read(self, sql: bytes, values: Sequence[Any] = ()) -> list[Any]:
        return self._do(lambda connection: connection.execute(sql, values, binary=True).fetchall())

    # --- writing ---

    def commit(self, batch: Batch) -> None:
        if not batch:
            return
        self._do(lambda connection: self._commit(connection, batch))

    def _commit(self, connection: Connection, batch: Batch) -> None:
        try:
            self._commit_once(connection, batch)
        except psycopg.errors.CheckViolation:  # retention has dropped a day that this kernel knew
            connection.execute("ROLLBACK")
            self._days.clear()
            self._commit_once(connection, batch)

    def _commit_once(self, connection: Connection, batch: Batch) -> None:
        self._make_days(connection, batch)
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                self._hold(connection)
                _write(connection, batch, self._owner)
                connection.execute("COMMIT")
        except psycopg.Error as exc:
            if exc.sqlstate != EVENT_TAKEN:
                raise
            connection.execute("ROLLBACK")
            raise EventTaken(_taken(connection, batch)) from exc

    def _hold(self, connection: Connection) -> None:
        """Only while this kernel's lease is its own, and nobody can take it before the transaction ends."""
        if self.fence is not None:
            connection.execute("SELECT hold_lease(%s::smallint, %s::bigint)", self.fence)

    def _make_days(self, connection: Connection, batch: Batch) -> None:
        if not batch.runs:
            return
        oldest, newest = day_of(min(row.id for row in batch.runs)), day_of(max(row.id for row in batch.runs))
        wanted = {oldest, newest} if oldest == newest else {day_of(row.id) for row in batch.runs}
        for day in wanted - self._days:
            make_day(connection, day)
            self._days.add(day)

    def set_letter(self, run: int, letter: int, who: str, reason: str, at: int) -> bool:
        def work(connection: Connection) -> bool:
            with connection.transaction():
                self._hold(connection)
                changed = connection.execute("UPDATE run SET letter = %s WHERE id = %s", (letter, run)).rowcount
                if changed:
                    connection.execute(
                        "INSERT INTO letter_note VALUES (%s, %s, %s, %s) ON CONFLICT (run) DO UPDATE "
                        "SET at = EXCLUDED.at, who = EXCLUDED.who, reason = EXCLUDED.reason",
                        (run, at, who, reason),
                    )
            return changed > 0

        return self._do(work)

    def drop_state_ops(self, upto: int) -> None:
        """There are none."""

    def probe(self) -> None:
        self._do(lambda connection: connection.execute("UPDATE schema_version SET version = version"))

    # --- reading back ---

    def run_of_key(self, key: str) -> int | None:
        found = self._read(b"SELECT run FROM event_key WHERE key = %b", (_key(key),))
        return int(found[0][0]) if found else None

    def recent_events(self, flow: int, trigger: str, limit: int) -> Iterator[tuple[int, bytes]]:
        sql = (
            b"SELECT id, event FROM (SELECT id, trigger, event FROM run WHERE flow = %b AND id >= %b "
            b"ORDER BY id DESC LIMIT %b) AS newest WHERE trigger = %b ORDER BY id DESC"
        )
        yield from self._read(sql, (flow, self._since(2), limit, trigger))

    def under_way(self, newest: int | None = None) -> Iterator[tuple[RunRow, list[bytes]]]:
        first = 0 if newest is None else self._since(newest)
        ours = (
            b"UPDATE run SET owner = %s WHERE state < 10 AND owner IS NULL AND id >= %s AND "
            b"(%s OR flow IN (SELECT flow FROM flow_home WHERE writer = %s))"
        )
        everything = self.fence is None
        self._do(lambda connection: connection.execute(ours, (self._writer, first, everything, self._writer)))
        sql = b"SELECT id FROM run WHERE state < 10 AND owner = %b AND id >= %b ORDER BY id"
        yield from self._all_of([row[0] for row in self._read(sql, (self._writer, first))])

    def load(self, run: int) -> tuple[RunRow, list[bytes]] | None:
        return next(self._all_of([run]), None)

    def children(self, parent: int) -> Iterator[tuple[RunRow, list[bytes]]]:
        sql = b"SELECT id FROM run WHERE parent = %b AND id >= %b ORDER BY id"
        first, _ = bounds(day_of(parent))
        yield from self._all_of([row[0] for row in self._read(sql, (parent, first))])

    def _all_of(self, ids: Sequence[int]) -> Iterator[tuple[RunRow, list[bytes]]]:
        """These runs with their chunks, some hundred at a time in memory."""
        sql = f"SELECT {RUN_COLUMNS} FROM run WHERE id = ANY(%b) AND id BETWEEN %b AND %b ORDER BY id".encode()
        more = b"SELECT run, data FROM chunk WHERE run = ANY(%b) AND run BETWEEN %b AND %b ORDER BY run, seq"
        for start in range(0, len(ids), _AT_ONCE):
            wanted = ids[start : start + _AT_ONCE]
            span = (list(wanted), wanted[0], wanted[-1])
            chunks: dict[int, list[bytes]] = {}
            for run, data in self._read(more, span):
                chunks.setdefault(run, []).append(data)
            for row in self._read(sql, span):
                yield RunRow(*row), chunks.get(row[0], [])

    def _since(self, count: int) -> int:
        """The first id of so many newest days."""
        newest = moment(self.ids.last) if self.ids.last else time.time()
        return first_of((newest // _DAY - (count - 1)) * _DAY)

    def state_ops(self, after: int) -> list[StateOp]:
        """None: every commit writes values where they are kept."""
        return []

    def mark(self) -> object:
        sql = b"SELECT max(id) FROM run WHERE state < 10 AND owner IS NULL"
        try:
            self._mark = self._read(sql)[0][0]
        except StoreFailure:
            pass  # what cannot be asked now is asked again soon
        return self._mark


def _write(connection: Connection, batch: Batch, owner: int | None) -> None:
    if batch.keys:
        keys = {_key(key): run for key, run in batch.keys}
        connection.execute(b"SELECT claim_keys(%b::bytea[], %b::bigint[])", (list(keys), list(keys.values())))
    if batch.runs:
        connection.execute(_INSERT_RUNS, (owner, *map(list, zip(*batch.runs, strict=True))))
    if batch.chunks:
        connection.execute(_INSERT_CHUNKS, [list(column) for column in zip(*batch.chunks, strict=True)])
    if batch.updates:
        ids, states, finished, errors, letters = (list(column) for column in zip(*batch.updates, strict=True))
        connection.execute(_UPDATE_RUNS, (ids, states, finished, errors, letters, min(ids), max(ids)))
    if batch.ops:
        _write_values(connection, [op for _, op in batch.ops])
    if batch.blobs:
        digests, runs = zip(*set(batch.blobs), strict=True)
        connection.execute(_USE_BLOBS, (list(digests), list(runs)))


def _write_values(connection: Connection, ops: Sequence[StateOp]) -> None:
    """The last change of each value counts. In their order, so that two kernels never wait for each other."""
    latest = sorted({(op.flow, op.key): op for op in sorted(ops)}.values(), key=lambda op: (op.flow, op.key))
    kept = [op for op in latest if op.value is not None]
    gone = [op for op in latest if op.value is None]
    if kept:
        vers, flows, keys, values = (list(column) for column in zip(*kept, strict=True))
        connection.execute(_PUT_VALUES, (flows, keys, values, vers))
    if gone:
        connection.execute(_DROP_VALUES, ([op.flow for op in gone], [op.key for op in gone]))


def _taken(connection: Connection, batch: Batch) -> dict[int, int]:
    """Which runs of a batch are one too many, with the run that there is."""
    keys = {_key(key): run for key, run in batch.keys}
    rows = connection.execute("SELECT key, run FROM event_key WHERE key = ANY(%s)", (list(keys),)).fetchall()
    return {keys[bytes(key)]: run for key, run in rows if keys[bytes(key)] != run}


def _key(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
