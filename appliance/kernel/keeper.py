"""What goes to the journal: records gathered between commits and written together.

The keeper also decides what happens when the disk refuses: room is made, then history is given up before flows
are (``degraded``), and what could not be kept is counted and said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.engine.trace import Record
from appliance.kernel.context import Services
from appliance.kernel.packing import Packing
from appliance.kernel.runs import LiveRun
from appliance.kernel.state import GONE
from appliance.store.errors import EventTaken, LeaseLost
from appliance.store.journal import Batch, Journal, StateOp
from appliance.store.runids import to_text
from appliance.store.shards import StoreFailure

logger = logging.getLogger(__name__)

RETRY_DISK = 5.0
MAX_HELD = 5_000
#: Ended runs that may be put off while the write budget is spent.
MAX_LATER = 256


class Keeper(Packing):
    """Gathers what happened and commits it. Used by the engine thread only."""

    def __init__(self, journal: Journal, services: Services, max_snapshot: int) -> None:
        super().__init__(services, max_snapshot)
        self._journal = journal
        self._touched: list[LiveRun] = []
        self._ops: list[tuple[int, StateOp]] = []
        self._keys: dict[str, int] = {}
        self._callbacks: list[Callable[[], Any]] = []
        self.make_room: Callable[[], None] = lambda: None
        self.committed: Callable[[], None] = lambda: None
        #: Lets a run go that another kernel has made of the same event; which that is, by the text of ours.
        self.let_go: Callable[[int], None] = lambda run: None
        self.taken: dict[str, str] = {}
        #: Called when another kernel has taken over; does not come back.
        self.lost: Callable[[], None] = lambda: None
        #: Where several kernels share the journal, nothing goes on that is not written: seconds between two tries.
        self.insist: float | None = None
        self.waiting = 0
        self.commits = 0
        self.degraded = ""
        self.lost_history = 0
        self._next_try = 0.0
        self._fresh = False
        #: Somebody waits for the next commit, or it must not be lost.
        self.urgent = False
        #: Set while an outcome is taken in that may come a little later to the disk.
        self.relaxed = False
        #: The write budget is spent: what only history needs waits for :meth:`catch_up`, or for company.
        self.thrifty = False
        self._later: list[LiveRun] = []
        self._catching_up = False

    @property
    def pending(self) -> bool:
        """True if something happened since the last commit."""
        return self._fresh

    @property
    def gathered(self) -> int:
        """Runs that the next commit writes."""
        return len(self._touched)

    def since(self, run: LiveRun) -> int:
        """Microseconds since the run was accepted."""
        return max(0, int(self._services.wall() * 1e6) - run.accepted)

    def touch(self, run: LiveRun) -> None:
        """The run has something to write."""
        self._fresh = True
        self.urgent = self.urgent or not self.relaxed
        if not run.dirty:
            run.dirty = True
            self._touched.append(run)

    def after_commit(self, callback: Callable[[], Any]) -> None:
        """Call once everything up to now is on disk."""
        self._fresh = self.urgent = True
        self._callbacks.append(callback)

    def record(self, run: LiveRun, record: Record) -> Any:
        """Keep a record; returns its value as it was kept (secrets are gone from it)."""
        data, value = self.pack_record(run, record)
        run.records.append(data)
        self.touch(run)
        return value

    def state_ops(self, run: LiveRun, changes: dict[str, Any], number: int | None = None) -> None:
        """Change durable values of the run's flow (or those under another number) together with the run."""
        owner = run.flow.num if number is None else number
        kept = {self.clean(key): value if value is GONE else self.clean(value) for key, value in changes.items()}
        self._ops += [(run.id, op) for op in self._services.states.apply(owner, kept)]
        self.touch(run)

    def loose_ops(self, changes: dict[str, Any], number: int) -> None:
        """Change durable values that belong to no run."""
        self._ops += [
            (self._journal.ids.next(self._services.wall()), op) for op in self._services.states.apply(number, changes)
        ]
        self._fresh = self.urgent = True

    def remember_key(self, key: str, run: int) -> None:
        """This event has its run."""
        self._keys[key] = run

    def run_of_key(self, key: str) -> int | None:
        """The run of an event that may start one only."""
        found = self._keys.get(key)
        return found if found is not None else self._journal.run_of_key(key)

    def commit(self) -> tuple[list[LiveRun], list[Callable[[], Any]]]:
        """Write everything; returns the runs that were written and what waits for that."""
        self._fresh = self.urgent = False
        touched, self._touched = self._touched, []
        callbacks, self._callbacks = self._callbacks, []
        written = self._due(touched) if self.thrifty or self._later else touched
        if written or self._ops:
            batch = self._batch(written)
            if self._write(batch):
                self._kept(written)
                self.committed()
            else:
                self._hold(written)
        return touched, callbacks

    def catch_up(self) -> None:
        """Have the next commit write what was put off."""
        if self._later:
            self._catching_up = self._fresh = self.urgent = True

    def _due(self, touched: list[LiveRun]) -> list[LiveRun]:
        """What is to be written now, while the write budget is spent.

        A run that succeeded before anything of it was written has done nothing to the world: after a power cut it
        would only be missing from the history. It goes to the disk with the next one that must, or once a minute.
        """
        needed = {run for run, _ in self._ops} | set(self._keys.values()) | {run for _, run in self._blobs}
        putting_off = self.thrifty and not self._catching_up and len(self._later) < MAX_LATER
        self._catching_up = False
        if putting_off and not self._ops and all(_history_only(run) and run.id not in needed for run in touched):
            self._later += touched
            return []
        later, self._later = self._later, []
        return later + touched

    def try_again(self) -> None:
        """If the journal was given up, see whether it can be written again."""
        if not self.degraded:
            return
        if self._touched or self._ops:
            self._fresh = self.urgent = True
            return
        try:
            self._journal.probe()
        except StoreFailure as exc:
            self.degraded = str(exc)
        else:
            self._recovered()

    def _batch(self, touched: list[LiveRun]) -> Batch:
        batch = Batch()
        for run in touched:
            if not run.row_written:
                batch.runs.append(run.new_row())
                continue
            if run.records:
                batch.chunks.append((run.id, run.chunks, trace.join(run.records)))
            if run.needs_update:
                batch.updates.append(run.update())
        batch.ops = self._ops
        batch.keys = list(self._keys.items())
        batch.blobs = self._blobs
        return batch

    def _kept(self, touched: list[LiveRun]) -> None:
        self._ops, self._keys, self._blobs = [], {}, []
        self.commits += 1
        for run in touched:
            if run.row_written and run.records:
                run.chunks += 1
            run.row_written = True
            run.needs_update = run.dirty = False
            run.records = []

    def _write(self, batch: Batch) -> bool:
        if self.degraded and time.monotonic() < self._next_try:
            return False
        try:
            self._journal.commit(batch)
        except LeaseLost:
            self.lost()
            raise
        except EventTaken as exc:
            return self._without(batch, exc.taken)
        except StoreFailure as exc:
            return self._second_try(batch, exc) if self.insist is None else self._again(batch, exc, self.insist)
        except Exception:
            logger.exception("a batch cannot be written as it is; its runs are written one by one")
            return self._one_by_one(batch)
        if self.degraded:
            self._recovered()
        return True

    def _without(self, batch: Batch, taken: dict[int, int]) -> bool:
        """Write all but the runs of events that have their run already: only pure steps of ours were done."""
        for mine, other in taken.items():
            self.taken[to_text(mine)] = to_text(other)
            self._keys = {key: run for key, run in self._keys.items() if run != mine}
            self.let_go(mine)
        rest = [part for run, part in batch.split(lambda run: run).items() if run not in taken]
        # Every part is tried, whatever became of the one before.
        written = [self._write(part) for part in rest]
        return all(written)

    def _again(self, batch: Batch, failure: StoreFailure, pause: float) -> bool:
        """The database is away: nothing may go on until it is back. If that takes too long, the lease ends us."""
        logger.critical("the journal cannot be written: %s. Nothing goes on until it can", failure)
        self.degraded = str(failure)
        while True:
            time.sleep(pause)
            try:
                self._journal.commit(batch)
            except LeaseLost:
                self.lost()
                raise
            except EventTaken as exc:
                return self._without(batch, exc.taken)
            except StoreFailure as exc:
                self.degraded = str(exc)
            else:
                self._recovered()
                return True

    def _recovered(self) -> None:
        logger.warning("the journal can be written again; %d runs left no history", self.lost_history)
        self.degraded = ""

    def _one_by_one(self, batch: Batch) -> bool:
        """Something in the batch is nothing that a file takes: the run that it belongs to is lost, no other."""
        for part in batch.split(lambda run: run).values():
            try:
                self._journal.commit(part)
            except StoreFailure as exc:
                return self._second_try(batch, exc)
            except Exception:
                self.lost_history += 1
                logger.exception("a run cannot be written and is lost from the history")
        return True

    def _second_try(self, batch: Batch, failure: StoreFailure) -> bool:
        try:
            if not self.degraded:
                self.make_room()
                self._journal.commit(batch)
                return True
        except Exception as exc:
            failure = exc if isinstance(exc, StoreFailure) else StoreFailure(str(exc))
        if not self.degraded:
            logger.critical("the journal cannot be written: %s. Flows go on, history does not", failure)
        self.degraded = str(failure)
        self._next_try = time.monotonic() + RETRY_DISK
        return False

    def _hold(self, touched: list[LiveRun]) -> None:
        """The disk refused: keep what still matters in memory for the next try, let go of the rest.

        Runs that the journal knows are all kept: it must hear how they went on, or they are done again.
        """
        known = [run for run in touched if run.row_written]
        fresh = [run for run in touched if not run.row_written and not run.ended]
        self._touched = known + fresh[:MAX_HELD]
        for run in [run for run in touched if run.ended and not run.row_written] + fresh[MAX_HELD:]:
            # With half of its records a run would do the other half again: it stays out of the journal (and dirty,
            # so that nothing touches it any more).
            run.dirty, run.records = True, Nowhere()
            self.lost_history += 1
        held = {run.id for run in self._touched}
        newest = {(op.flow, op.key): (run, op) for run, op in self._ops}
        self._ops = sorted(newest.values(), key=lambda entry: entry[1].ver)
        self._blobs = [(digest, run) for digest, run in self._blobs if run in held]
        for key in list(self._keys)[: -MAX_HELD * 2]:
            del self._keys[key]


def _history_only(run: LiveRun) -> bool:
    return run.state is RunState.SUCCEEDED and not run.row_written and run.parent is None and run.origin is None


class Nowhere(list[bytes]):
    """The records of a run that is not kept."""

    def append(self, record: bytes) -> None:
        """Forget it."""
