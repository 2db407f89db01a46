"""Housekeeping off the engine's thread: checkpoints, durable values into flowork.db, retention, blobs, good copies.

Nothing here writes while nothing happens: an idle box leaves the card alone.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from appliance.contracts import FlowError
from appliance.kernel.engine import Engine
from appliance.store import shards
from appliance.store.blobs import BlobStore
from appliance.store.journal import Journal
from appliance.store.metadata import Store
from appliance.store.places import make_retention
from appliance.store.retention import Policy, Rule

logger = logging.getLogger(__name__)

#: A WAL of so many commits is moved into its shard: 4 to 10 MB.
CHECKPOINT_COMMITS = 1000
STATE_EVERY = 300.0
SWEEP_EVERY = 3600.0
TICK = 60.0
#: Room kept in a file of its own, given up when the disk is full so that runs under way can end.
RESERVE = "reserve"
RESERVE_BYTES = 8_000_000
#: Bytes without which the databases cannot even be opened.
ROOM_TO_START = 4_000_000
#: How much old history goes when the disk is full although it is within its bound.
MORE_ROOM = 50_000_000


class Maintenance:
    """One thread; :meth:`nudge` after commits, by itself once a minute."""

    def __init__(self, data: Path, engine: Engine, journal: Journal, store: Store, blobs: BlobStore) -> None:
        self._data = data
        self._engine = engine
        self._journal = journal
        self._store = store
        self._blobs = blobs
        self._changed = threading.Condition()
        self._stopping = False
        self._hurry = False
        self._thread: threading.Thread | None = None
        self._next_state = time.monotonic() + STATE_EVERY
        self._next_sweep = time.monotonic() + 120.0
        self._next_tick = time.monotonic() + TICK
        self._short_of_room = False
        self._commits = 0
        self.on_tick: Callable[[], None] = lambda: None
        self._retention = make_retention(data, journal, self._exchange)

    def start(self) -> None:
        """Begin; lays the reserve down if there is room."""
        self._lay_reserve()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, then save the durable values. Twice is fine."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._save_state()

    def after_commit(self) -> None:
        """Called on the engine's thread: look at the WAL now and then."""
        self._commits += 1
        if not self._commits & 63:
            with self._changed:
                self._hurry = True
                self._changed.notify()

    def nudge_sweep(self) -> None:
        """Apply retention soon."""
        with self._changed:
            self._next_sweep = 0.0
            self._hurry = True
            self._changed.notify()

    def make_room(self) -> None:
        """The disk is full: give up the reserve and sweep as if the bound were tighter. On the engine's thread."""
        self._short_of_room = True
        give_up_reserve(self._data)
        self.nudge_sweep()

    def _lay_reserve(self) -> None:
        reserve = self._data / RESERVE
        try:
            if not reserve.exists() and free_bytes(self._data) > 20 * RESERVE_BYTES:
                with reserve.open("wb") as file:
                    file.write(bytes(RESERVE_BYTES))
        except OSError as exc:
            reserve.unlink(missing_ok=True)
            logger.warning("no reserve for a full disk: %s", exc)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._hurry and not self._stopping:
                    self._changed.wait(max(0.0, self._next_tick - time.monotonic()))
                self._hurry = False
                if self._stopping:
                    return
            for work in (self._checkpoint, self._state_if_due, self._sweep_if_due, self._tick_if_due):
                try:
                    work()
                except Exception:
                    logger.exception("housekeeping (%s) failed", work.__name__)

    def _tick_if_due(self) -> None:
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + TICK
            self._lay_reserve()
            self._journal.lengthen()
            self.on_tick()

    def _checkpoint(self) -> None:
        for day, commits in self._journal.uncheckpointed().items():
            if commits > CHECKPOINT_COMMITS:
                self._journal.checkpoint(day)

    def _state_if_due(self) -> None:
        if time.monotonic() >= self._next_state:
            self._next_state = time.monotonic() + STATE_EVERY
            self._save_state()
            self._store.keep_good_copy()

    def _save_state(self) -> None:
        """Move the durable values' marker up, so that the journal may forget their single changes."""
        states = self._engine.services.states
        if self._journal.fence is not None:
            # Several kernels share the database: every commit has written the values where they are kept.
            self._on_engine(lambda: states.saved(states.version))
            return
        changes, upto = states.take_changed()
        if upto > states.marker:
            self._store.values.apply_state(changes, upto)
            self._on_engine(lambda: states.saved(upto))
        droppable = self._store.values.droppable()
        if droppable:
            self._on_engine(lambda: self._journal.drop_state_ops(droppable))

    def _on_engine(self, work: Callable[[], None]) -> None:
        """Do it between two commits, or right here once the engine has stopped."""
        if self._stopping:
            work()
        else:
            self._engine.post(work)

    def _sweep_if_due(self) -> None:
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_EVERY
            self.sweep()

    def sweep(self) -> None:
        """Apply retention now, then drop the blobs that nothing uses any more."""
        now = self._engine.services.wall()
        swept = self._retention.sweep(self._policy(), now)
        for digest in swept.blobs - self._retention.blobs_in_use(swept.blobs):
            self._blobs.delete(digest, unused_since=now - 3600)
        self._blobs.clear_leftovers(now - 3600)
        if swept.deleted or swept.rewritten:
            logger.info(
                "history: %d days deleted, %d thinned, %.1f MB freed",
                len(swept.deleted),
                len(swept.rewritten),
                swept.freed / 1e6,
            )

    def _policy(self) -> Policy:
        settings = self._store.settings.load()
        engine = Rule(settings.keep_days, settings.keep_failed_days)
        rules: dict[int, Rule] = {}
        for slot in list(self._engine.flows.values()):
            if slot.live is None:
                continue
            try:
                history = self._engine.plan(slot.live).history
            except Exception as exc:
                logger.debug("no history rule of %s: %s", slot.id, exc)
                continue
            if history.days is not None or history.failed_days is not None:
                good = engine.good if history.days is None else history.days
                other = engine.other if history.failed_days is None else history.failed_days
                rules[slot.num] = Rule(good, max(other, good) if history.failed_days is None else other)
        bound = settings.max_history_bytes
        if self._short_of_room:
            self._short_of_room = False
            bound = min(bound, max(0, self._retention.total_bytes() - MORE_ROOM))
        parents = frozenset(run.parent for run in list(self._engine.runs.values()) if run.parent is not None)
        parents |= {run.id for run in list(self._engine.runs.values()) if run.families}
        return Policy(engine, rules, bound, parents)

    def _exchange(self, day: str, writes: int, change: Callable[[], None]) -> bool:
        """Change a shard's files between two commits; False if the day was written since ``writes`` was read."""
        done, given_up = threading.Event(), threading.Event()
        outcome: list[bool] = []

        def work() -> None:
            try:
                if not given_up.is_set() and self._journal.writes.get(day, 0) == writes:
                    self._journal.forget(day)
                    change()
                    outcome.append(True)
            finally:
                done.set()

        self._engine.post(work)
        deadline = time.monotonic() + 60.0
        while not done.wait(0.5):
            if self._stopping or time.monotonic() > deadline:
                given_up.set()
                # It may have begun right before; then it is done in a moment.
                done.wait(1.0)
                break
        return bool(outcome)


def make_room_to_start(data: Path) -> None:
    """Before anything is opened: not even a database that is only read can be, on a disk that is full."""
    if free_bytes(data) < ROOM_TO_START:
        give_up_reserve(data)


def give_up_reserve(data: Path) -> bool:
    """Make the reserve's room free; False if it was given up already."""
    try:
        (data / RESERVE).unlink()
    except OSError:
        return False
    logger.warning("the disk is full: %d MB of reserve were given up", RESERVE_BYTES // 1_000_000)
    return True


def free_bytes(data: Path) -> int:
    """Room on the data folder's disk."""
    return shutil.disk_usage(data).free


def check_shards(data: Path) -> list[str]:
    """Names of shards whose structure is damaged, by SQLite's quick check (slow on large files)."""
    damaged = []
    for day in shards.days(data):
        path = shards.shard_path(data, day)
        try:
            reader = shards.open_reader(path)
        except Exception as exc:
            damaged.append(f"{path.name}: {exc}")
            continue
        try:
            result = reader.execute("PRAGMA quick_check(1)").fetchone()[0]
            if result != "ok":
                damaged.append(f"{path.name}: {result}")
        except Exception as exc:
            damaged.append(f"{path.name}: {exc}")
        finally:
            reader.close()
    return damaged


class Unknown(FlowError):
    """A run, step or flow that the kernel does not know."""

    id = "not-found"
    retryable = False
