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
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from edge_agent.blobs import MARK
from edge_agent.clocks import Clocks
from edge_agent.lanes import OVERHEAD, Item, Lane
from edge_agent.outbox_file import OutboxFile, Place
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
        self.dropped = 0
        self._file = OutboxFile(path, clocks.boot)
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
        self._bytes = 0
        self._count = 0
        self._linked = False
        self._idle = False
        self._stopping = False
        self._lost_on_disk: dict[str, int] = {}
        self._healthy = True
        self._sweep_at = 0.0
        self._thread: threading.Thread | None = None

    # --- opening and closing --------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The file's, for ever: what numbers are of."""
        return self._file.name

    def open(self) -> None:
        """Take up what an earlier process has left. A file that is damaged is set aside. Raises ``sqlite3.Error``."""
        self._file.open()
        self._next = self._file.reserved + 1
        try:
            self._reserve()
        except sqlite3.Error:
            self._file.close()
            raise
        self._count, self._bytes = self._file.totals()
        self._lost_on_disk = self._file.lost()
        self._lost = dict(self._lost_on_disk)
        for name in self._file.watches():
            lane = self._lanes[name] = Lane(name, True)
            lane.spilled = True
            self._refill(lane)
        self._thread = threading.Thread(target=self._write, name="outbox", daemon=True)
        self._thread.start()

    def _reserve(self) -> None:
        with self._file.writing():
            self._file.reserve(self._next + BLOCK)

    def close(self) -> None:
        """Write what is not written yet, and close. Twice is fine."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._file.close()

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
        left_out = "an event was" if count == 1 else f"{count} events were"
        body = Body("outbox", "overflow", count, {"text": f"{left_out} left out: the outbox was full"})
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
        used_up = self._next + BLOCK // 2 > self._file.reserved
        if not (items or forget or discard or used_up or lost != self._lost_on_disk):
            return
        with self._file.writing():
            self._file.forget(forget)
            self._file.discard(discard)
            self._file.add(items)
            self._bound(lost)
            if lost != self._lost_on_disk:
                self._file.keep_lost(lost)
            if used_up:
                self._file.reserve(self._next + BLOCK)
        self._lost_on_disk = lost
        if self._count == 0 and forget:  # a backlog is through: give its room back
            self._file.shrink()
        with self._lock:
            for item in items:
                item.written = True
                if item.gone:  # acknowledged while it was being written
                    self._forget[item.watch] = max(self._forget.get(item.watch, 0), item.seq)
            if discard:
                self._count, self._bytes = self._file.totals()
                for item in self._unwritten:
                    self._count += not item.gone
                    self._bytes += 0 if item.gone else item.size

    def _bound(self, lost: dict[str, int]) -> None:
        """Make room: what is too old, then the lowest priority, and of that the oldest."""
        now = self._clocks.up()
        if now >= self._sweep_at:
            self._sweep_at = now + 60.0
            self._drop(self._file.too_old(self._clocks.wall() - self._max_age, now - self._max_age), lost)
        while self._bytes > self._max_bytes:
            places = self._file.least(500)
            if not places:
                return
            excess, chosen = self._bytes - self._max_bytes, []
            for place in places:
                if excess <= 0:
                    break
                chosen.append(place)
                excess -= place[2] + OVERHEAD
            self._drop(chosen, lost)

    def _drop(self, places: list[Place], lost: dict[str, int]) -> None:
        if not places:
            return
        self._file.drop(places)
        numbers = {seq for seq, _, _ in places}
        with self._lock:
            for _, watch, size in places:
                self._count_lost(watch, 1)
                lost[watch] = self._lost[watch]
                self._count -= 1
                self._bytes -= size + OVERHEAD
            for lane in self._lanes.values():
                # What is under way is not in the file any more, and counted as lost all the same, should the connection
                # end now.
                lane.without(numbers)
        logger.warning("the outbox is full: %d events were left out", len(places))

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
        found = self._file.read(lane.name, behind, upto, room)
        with self._lock:
            lane.window.extend(found)
            lane.newest = found[-1].seq if found else behind
            # Caught up, unless more came meanwhile that lies in the writer's queue only.
            late = any(item.watch == lane.name and not item.gone and item.seq > lane.newest for item in self._unwritten)
            lane.spilled = len(found) >= room or late
            lane.filling = lane.spilled and len(lane.window) < HELD
