"""What was seen and is not yet a run: kept in order per watch until the appliance acknowledges it, on disk if need be.

An event goes out at once and is written shortly after, with all others of that moment in one transaction; one that was
acknowledged by then is never written, so that a healthy link costs the card nothing. While the link is down everything
is written. The newest events of a watch that memory has no room for lie on disk only, and are read in their turn.

Sequence numbers are reserved in blocks before they are used: a number is never given twice, whatever was not written
when the power went. The file is bounded by size and age; the lowest priority goes first, and of that the oldest, and
how many went is told as an ``overflow`` event in their place.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.blobs import MARK
from edge_agent.protocol.messages import WINDOW, WINDOW_BYTES, Body, Row, encode

logger = logging.getLogger(__name__)

#: Events of one watch that are held in memory.
HELD = 1024
#: Sequence numbers reserved at once.
BLOCK = 1_000_000
#: Seconds that an event which was sent waits to be written, in case it is acknowledged.
LINGER = 0.05
#: Seconds until what was acknowledged is taken from the disk, if nothing is to be written anyway.
FORGET = 1.0
#: Events that may wait to be written while the disk does not take them.
UNWRITTEN = 20_000
#: A wall clock before this (in 2023) has not been set since the machine was switched on.
CLOCK_SET = 1_700_000_000.0
#: What SQLite says of a file that cannot be mended; a full or busy disk is something else.
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
#: Bytes that an event takes on disk beside its body.
OVERHEAD = 60

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    seq INTEGER PRIMARY KEY, watch TEXT NOT NULL, priority INTEGER NOT NULL, at REAL NOT NULL, up REAL NOT NULL,
    boot TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS event_watch ON event (watch, seq);
CREATE INDEX IF NOT EXISTS event_priority ON event (priority, seq);
CREATE TABLE IF NOT EXISTS lost (watch TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""


class Item(Struct, eq=False):
    """One event of one watch."""

    seq: int
    watch: str
    priority: int
    at: float
    up: float
    body: bytes
    written: bool = False
    #: Acknowledged, or dropped: it needs no writing any more.
    gone: bool = False

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD


class Lane:
    """The events of one watch: ``window`` in memory, its first ``sent`` under way; more on disk if ``spilled``.

    ``newest`` is the highest number that memory has held; what is behind it on disk was never read.
    """

    __slots__ = ("durable", "filling", "name", "newest", "sent", "sent_bytes", "spilled", "window")

    def __init__(self, name: str, durable: bool) -> None:
        self.name = name
        self.durable = durable
        self.window: deque[Item] = deque()
        self.newest = -1
        self.sent = 0
        self.sent_bytes = 0
        self.spilled = False
        self.filling = False


class Clocks(Struct, frozen=True):
    """Unix seconds, seconds since boot, and which boot that is; injected in tests."""

    wall: Callable[[], float]
    up: Callable[[], float]
    boot: str


def system_clocks() -> Clocks:
    """The clocks of this machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        boot = ""
    return Clocks(time.time, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), boot)


class Outbox:
    """Safe from any thread. ``wake`` is called when there is something to send. ``max_age`` in seconds."""

    def __init__(
        self,
        path: Path,
        wake: Callable[[], None],
        clocks: Clocks,
        *,
        max_bytes: int = 64_000_000,
        max_age: float = 7 * 86400.0,
        linger: float = LINGER,
    ) -> None:
        self.path = path
        self.name = ""
        self.dropped = 0
        self._wake = wake
        self._clocks = clocks
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._linger = linger
        self._lock = threading.Condition()
        self._lanes: dict[str, Lane] = {}
        self._unwritten: deque[Item] = deque()
        self._forget: dict[str, int] = {}
        self._discard: set[str] = set()
        self._lost: dict[str, int] = {}
        self._next = 0
        self._reserved = 0
        self._bytes = 0
        self._count = 0
        self._linked = False
        self._idle = False
        self._stopping = False
        self._lost_on_disk: dict[str, int] = {}
        self._healthy = True
        self._sweep_at = 0.0
        self._db: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None

    # --- opening and closing --------------------------------------------------------------------

    def open(self) -> None:
        """Take up what an earlier process has left. A file that is damaged is set aside."""
        try:
            self._load()
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorname not in DAMAGED:
                raise
            aside = self.path.with_name(f"{self.path.name}.damaged")
            logger.error("the outbox cannot be read (%s): it is now %s, and a new one begins", exc, aside)
            self._close_db()
            self.path.replace(aside)
            for rest in ("-wal", "-shm"):
                self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
            self._load()
        self._thread = threading.Thread(target=self._write, name="outbox", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        self._db = db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-512")
        db.execute("PRAGMA journal_size_limit=1000000")
        db.executescript(_SCHEMA)
        meta = dict(db.execute("SELECT name, value FROM meta"))
        self.name = meta.get("name") or os.urandom(6).hex()
        self._next = int(meta.get("reserved", 0)) + 1
        self._reserve()
        self._count, self._bytes = db.execute(
            f"SELECT count(*), ifnull(sum(length(body) + {OVERHEAD}), 0) FROM event"
        ).fetchone()
        self._lost_on_disk = dict(db.execute("SELECT watch, count FROM lost"))
        self._lost = dict(self._lost_on_disk)
        for (name,) in db.execute("SELECT DISTINCT watch FROM event"):
            lane = self._lanes[name] = Lane(name, True)
            lane.spilled = True
            self._refill(lane)

    def _reserve(self) -> None:
        db = self._connection()
        self._reserved = self._next + BLOCK
        rows = [("name", self.name), ("reserved", str(self._reserved))]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", rows)
        db.execute("COMMIT")

    def close(self) -> None:
        """Write what is not written yet, and close. Twice is fine."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._close_db()

    def _close_db(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    # --- events in ------------------------------------------------------------------------------

    def put(self, watches: Iterable[str], body: Body, at: float, priority: int) -> None:
        """Take an event for each of the watches; never blocks on the disk."""
        up = self._clocks.up() - min(max(0.0, self._clocks.wall() - at), 3600.0)
        encoded = encode(body)
        with self._lock:
            for watch in watches:
                lane = self._lanes.get(watch)
                if lane is not None and (lane.durable or self._linked):
                    self._add(lane, priority, at, up, encoded)
            self._nudge()
        self._wake()

    def _nudge(self) -> None:
        """Wake the writer if it sleeps; while it lingers, it is not to be woken by every event."""
        if self._idle:
            self._idle = False
            self._lock.notify_all()

    def _add(self, lane: Lane, priority: int, at: float, up: float, body: bytes) -> None:
        item = Item(self._next, lane.name, priority, at, up, body)
        self._next += 1
        if not lane.spilled and len(lane.window) < HELD:
            lane.window.append(item)
            lane.newest = item.seq
        elif not lane.durable:
            self._count_lost(lane.name, 1)
            return
        else:
            lane.spilled = True
        if lane.durable:
            self._count += 1
            self._bytes += item.size
            if len(self._unwritten) >= UNWRITTEN:
                self._let_go(self._unwritten.popleft())
            self._unwritten.append(item)

    def _let_go(self, item: Item) -> None:
        """The disk has not taken it and there is no more room in memory."""
        lane = self._lanes.get(item.watch)
        if not item.gone and (lane is None or item not in lane.window):
            self._count_lost(item.watch, 1)
            self._count -= 1
            self._bytes -= item.size

    def _count_lost(self, watch: str, count: int) -> None:
        self.dropped += count
        self._lost[watch] = self._lost.get(watch, 0) + count

    @property
    def waiting(self) -> int:
        """Events that are not acknowledged yet."""
        return self._count

    # --- what is watched --------------------------------------------------------------------------

    def keep(self, watches: dict[str, bool]) -> None:
        """The watches there are from now on, and whether each is durable; what others had waiting is forgotten."""
        with self._lock:
            for name, durable in watches.items():
                lane = self._lanes.setdefault(name, Lane(name, durable))
                lane.durable = durable
            for name in [name for name in self._lanes if name not in watches]:
                for item in (*self._lanes.pop(name).window, *self._unwritten):
                    item.gone = item.gone or item.watch == name
                self._discard.add(name)
                self._lost.pop(name, None)
            self._lock.notify_all()

    # --- events out -----------------------------------------------------------------------------

    def linked(self, up: bool) -> None:
        """A connection has begun (everything goes out again from the first that is not acknowledged), or ended."""
        with self._lock:
            self._linked = up
            for lane in self._lanes.values():
                lane.sent = lane.sent_bytes = 0
                if not lane.durable:
                    lane.window.clear()
            self._lock.notify_all()

    def take(self) -> list[tuple[str, list[Row]]]:
        """What may be sent now, by watch."""
        batches = []
        with self._lock:
            for watch in [name for name in self._lost if name in self._lanes]:
                self._tell_lost(watch)
            for lane in self._lanes.values():
                rows: list[Row] = []
                while lane.sent < min(len(lane.window), WINDOW) and (not lane.sent or lane.sent_bytes < WINDOW_BYTES):
                    item = lane.window[lane.sent]
                    rows.append(Row(item.seq, item.at, item.up, msgspec.Raw(item.body)))
                    lane.sent += 1
                    lane.sent_bytes += item.size
                if rows:
                    batches.append((lane.name, rows))
        return batches

    def _tell_lost(self, watch: str) -> None:
        lane = self._lanes[watch]
        if lane.spilled or len(lane.window) >= HELD:
            return  # in its turn
        count = self._lost.pop(watch)
        body = Body("outbox", "overflow", count, {"text": f"{count} events were left out: the outbox was full"})
        self._add(lane, 1_000_000, self._clocks.wall(), self._clocks.up(), encode(body))

    def ack(self, upto: dict[str, int]) -> list[bytes]:
        """Everything of a watch up to the number is a run on disk; the bodies among it that name blobs."""
        with_blobs: list[bytes] = []
        with self._lock:
            for watch, seq in upto.items():
                lane = self._lanes.get(watch)
                if lane is None:
                    continue
                while lane.window and lane.window[0].seq <= seq:
                    item = lane.window.popleft()
                    if lane.sent:
                        lane.sent -= 1
                        lane.sent_bytes -= item.size
                    item.gone = True
                    if MARK in item.body:
                        with_blobs.append(item.body)
                    if lane.durable:
                        self._count -= 1
                        self._bytes -= item.size
                    if item.written:
                        self._forget[watch] = item.seq
                        self._nudge()
                if lane.spilled and len(lane.window) < HELD // 2:
                    lane.filling = True
                    self._lock.notify_all()
        return with_blobs

    def mentions(self, digest: str) -> bool:
        """Whether a blob is perhaps still needed."""
        mark = digest.encode()
        with self._lock:
            return any(lane.spilled or any(mark in item.body for item in lane.window) for lane in self._lanes.values())

    # --- the disk: only on the writer's thread, and while opening -----------------------------------

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._has_work():
                    if self._stopping:
                        return
                    self._idle = True
                    self._lock.wait()
                self._idle = False
                if self._linked and not self._hurry():
                    # What has been sent is perhaps acknowledged before it needs to be written.
                    self._lock.wait_for(self._hurry, self._linger if self._unwritten else FORGET)
                items = [item for item in self._unwritten if not item.gone]
                self._unwritten.clear()
                forget, self._forget = self._forget, {}
                discard, self._discard = self._discard, set()
                lost = dict(self._lost)
                last = self._stopping
            try:
                self._commit(items, forget, discard, lost)
                self._healthy = True
            except sqlite3.Error as exc:
                self._failed(exc, items, forget, discard)
                if last:
                    return
                continue
            filling = self._filling()
            for lane in filling:
                self._refill(lane)
            if filling or self._lost:
                self._wake()

    def _hurry(self) -> bool:
        return bool(self._stopping or not self._linked or self._discard or self._filling())

    def _has_work(self) -> bool:
        return bool(self._unwritten or self._forget or self._discard or self._filling())

    def _filling(self) -> list[Lane]:
        return [lane for lane in list(self._lanes.values()) if lane.filling]

    def _commit(self, items: list[Item], forget: dict[str, int], discard: set[str], lost: dict[str, int]) -> None:
        db, boot = self._connection(), self._clocks.boot
        used_up = self._next + BLOCK // 2 > self._reserved
        if not (items or forget or discard or used_up or lost != self._lost_on_disk):
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany("DELETE FROM event WHERE watch = ? AND seq <= ?", forget.items())
            db.executemany("DELETE FROM event WHERE watch = ?", [(name,) for name in discard])
            rows = [(i.seq, i.watch, i.priority, i.at, i.up, boot, i.body) for i in items]
            db.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._bound(db, lost)
            if lost != self._lost_on_disk:
                db.execute("DELETE FROM lost")
                db.executemany("INSERT INTO lost VALUES (?, ?)", lost.items())
            if used_up:
                self._reserved = self._next + BLOCK
                db.execute("UPDATE meta SET value = ? WHERE name = 'reserved'", (str(self._reserved),))
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        self._lost_on_disk = lost
        if self._count == 0 and forget:  # a backlog is through: give its room back
            db.execute("PRAGMA incremental_vacuum")
        with self._lock:
            for item in items:
                item.written = True
                if item.gone:  # acknowledged while it was being written
                    self._forget[item.watch] = max(self._forget.get(item.watch, 0), item.seq)
            if discard:
                self._count, self._bytes = db.execute(
                    f"SELECT count(*), ifnull(sum(length(body) + {OVERHEAD}), 0) FROM event"
                ).fetchone()
                for item in self._unwritten:
                    self._count += not item.gone
                    self._bytes += 0 if item.gone else item.size

    def _bound(self, db: sqlite3.Connection, lost: dict[str, int]) -> None:
        """Make room: what is too old, then the lowest priority, and of that the oldest."""
        now = self._clocks.up()
        if now >= self._sweep_at:
            self._sweep_at = now + 60.0
            # By the clock that nobody sets, where it can be; a wall clock that was not set yet says nothing.
            query = (
                "SELECT seq, watch, length(body) FROM event WHERE "
                "(boot = :boot AND up < :up) OR (boot <> :boot AND at < :at AND at > :set)"
            )
            bounds = {"boot": self._clocks.boot, "up": now - self._max_age, "at": self._clocks.wall() - self._max_age}
            self._drop(db.execute(query, {**bounds, "set": CLOCK_SET}).fetchall(), db, lost)
        while self._bytes > self._max_bytes:
            query = "SELECT seq, watch, length(body) FROM event ORDER BY priority, seq LIMIT 500"
            rows = db.execute(query).fetchall()
            if not rows:
                return
            excess, chosen = self._bytes - self._max_bytes, []
            for row in rows:
                if excess <= 0:
                    break
                chosen.append(row)
                excess -= row[2] + OVERHEAD
            self._drop(chosen, db, lost)

    def _drop(self, rows: list[tuple[int, str, int]], db: sqlite3.Connection, lost: dict[str, int]) -> None:
        if not rows:
            return
        db.executemany("DELETE FROM event WHERE seq = ?", [(seq,) for seq, _, _ in rows])
        numbers = {seq for seq, _, _ in rows}
        with self._lock:
            for _, watch, size in rows:
                self._count_lost(watch, 1)
                lost[watch] = self._lost[watch]
                self._count -= 1
                self._bytes -= size + OVERHEAD
            for lane in self._lanes.values():
                under_way, rest = list(lane.window)[: lane.sent], list(lane.window)[lane.sent :]
                # What is under way is perhaps a run already: it is not in the file any more, and counted as lost all
                # the same, should the connection end now.
                lane.window = deque([*under_way, *(item for item in rest if item.seq not in numbers)])
        logger.warning("the outbox is full: %d events were left out", len(rows))

    def _failed(self, exc: sqlite3.Error, items: list[Item], forget: dict[str, int], discard: set[str]) -> None:
        """The disk does not take it (it is full, or broken): keep in memory what there is room for, and try again."""
        if self._healthy:
            logger.error("the outbox cannot be written, what is seen is held in memory: %s", exc)
        self._healthy = False
        with self._lock:
            self._unwritten.extendleft(reversed(items))
            while len(self._unwritten) > UNWRITTEN:
                self._let_go(self._unwritten.popleft())
            self._forget = {**forget, **self._forget}
            self._discard |= discard
            self._lock.wait_for(lambda: self._stopping, 2.0)

    def _refill(self, lane: Lane) -> None:
        """Read the next events of a lane that memory had no room for."""
        with self._lock:
            room = HELD - len(lane.window)
            behind = lane.newest
            upto = self._next
        if room <= 0:
            lane.filling = False
            return
        rows = self._connection().execute(
            "SELECT seq, priority, at, up, boot, body FROM event WHERE watch = ? AND seq > ? AND seq < ? "
            "ORDER BY seq LIMIT ?",
            (lane.name, behind, upto, room),
        )
        boot = self._clocks.boot
        found = [
            Item(seq, lane.name, priority, at, up if of_boot == boot else 0.0, body, written=True)
            for seq, priority, at, up, of_boot, body in rows
        ]
        with self._lock:
            lane.window.extend(found)
            lane.newest = found[-1].seq if found else behind
            # Caught up, unless more came meanwhile that lies in the writer's queue only.
            late = any(item.watch == lane.name and not item.gone and item.seq > lane.newest for item in self._unwritten)
            lane.spilled = len(found) >= room or late
            lane.filling = lane.spilled and len(lane.window) < HELD
