"""The engine's loop: messages in, ready steps begun, a commit, and what waits for it; one thread at a time.

``pump`` is one turn of work until nothing is left to do; a Huey task calls it whenever something rang. Within it:
what came in is taken, inline steps run at once, everything that happened is committed in one transaction, and
only behind that commit are events acknowledged, callers answered and fenced effects begun.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from appliance.engine.runner import READY
from appliance.engine.states import RunState
from appliance.kernel.chronicle import Chronicle
from appliance.kernel.context import Services
from appliance.kernel.flights import DEFAULT_TIMEOUT, Flight
from appliance.kernel.keeper import Keeper
from appliance.kernel.runs import LiveRun
from appliance.kernel.timers import Timers
from appliance.store.journal import Journal

logger = logging.getLogger(__name__)

#: A turn commits after this many seconds even if more steps are ready, so that nobody waits for a busy flow: so many
#: times what the last commit took, since a slow card is better off with few large ones, within these bounds.
SLICE_PER_COMMIT = 5
SHORTEST_SLICE, LONGEST_SLICE = 0.01, 0.05
#: Shortest time between two commits, so that under load many runs share one.
COMPANY = 0.0025
#: So many runs in one commit need no further company.
ENOUGH = 16
#: How long an outcome may wait for company that nobody waits for, and whose effect may be had again after a crash.
LAZINESS = 0.008
MAX_BATCH = 512


class Hands(Protocol):
    """What carries the steps out."""

    def begin(self, run: LiveRun, index: int) -> None: ...

    def begin_fenced(self) -> None: ...

    def broke(self, run: LiveRun, index: int, exc: Exception) -> None: ...

    def fenced(self) -> set[tuple[int, int]]: ...

    def precious(self) -> bool: ...

    def timed_out(self, flight: Flight, limit: float) -> None: ...

    def let_go(self, run: LiveRun) -> None: ...


class Turns:
    """The loop over the runs under way. Only :meth:`post` may be called from outside its thread.

    Who inherits says how steps are carried out.
    """

    steps: Hands

    def __init__(self, journal: Journal, services: Services, ring: Callable[[], None], max_snapshot: int) -> None:
        self.services = services
        self.runs: dict[int, LiveRun] = {}
        self.ready: deque[tuple[LiveRun, int]] = deque()
        #: Steps of flows with a priority: more urgent ones and, behind all of ``ready``, less urgent ones.
        self.ranked: list[tuple[int, int, LiveRun, int]] = []
        self._ranks = itertools.count()
        self.timers = Timers(time.monotonic, services.wall, ring)
        self.keeper = Keeper(journal, services, max_snapshot)
        self.chronicle = Chronicle(self.keeper)
        #: Does not come back if another kernel may have taken over; called before anything is done to the world.
        self.still_ours: Callable[[], None] = lambda: None
        self._inbox: deque[Callable[[], None]] = deque()
        self._ring = ring
        self._idle = True
        self._turn = threading.Lock()
        self._thread = 0
        self._turned = threading.Event()
        self._knock = threading.Event()
        self._gathering = False
        self._not_before = 0.0
        self._last_company = 0
        self._lazy_until = 0.0
        self.draining = False
        self.closed = False
        self._slice = SHORTEST_SLICE
        self._commit_by: float | None = None

    def post(self, work: Callable[[], None]) -> None:
        """Have the engine thread call ``work`` soon."""
        self._inbox.append(work)
        if self._idle:
            self._idle = False
            self._ring()
        elif self._gathering:
            self._knock.set()

    def load(self) -> int:
        """Runs that want a turn now (parked ones want none)."""
        return len(self.runs) - self.keeper.waiting + len(self._inbox)

    def pump(self) -> None:
        """Work until there is nothing to do. Never raises; what a step raises belongs to its run."""
        with self._turn:
            if self.closed:
                return
            self._thread = threading.get_ident()
            try:
                self._work()
            finally:
                self._thread = 0
                self._turned.set()

    def _work(self) -> None:
        self._idle = False
        while True:
            self._take_inbox()
            self.timers.fire()
            self._run_ready()
            busy = self._has_ready()
            if self.keeper.pending and (not busy or self._slice_over()) and not self._more_to_come():
                self.commit()
            if self._inbox or self.keeper.pending or self._has_ready():
                continue
            self._idle = True
            if not self._inbox:
                return
            self._idle = False

    def _has_ready(self) -> bool:
        return bool(self.ready or self.ranked) and not self.draining

    def _more_to_come(self) -> bool:
        """Whether something came within the time that the commit may wait for company.

        A sync and its pages are paid for once for all. Right behind a commit that is a moment: callers that were
        answered together mostly come back together, so as many as last time are enough. What nobody waits for has
        more time.
        """
        if self._has_ready() or (self.keeper.urgent and self.keeper.gathered >= min(self._last_company, ENOUGH)):
            return False
        now = time.monotonic()
        self._lazy_until = self._lazy_until or now + LAZINESS
        wait = (self._not_before if self.keeper.urgent else self._lazy_until) - now
        if wait <= 0:
            return False
        self._knock.clear()
        self._gathering = True
        if not self._inbox:
            self._knock.wait(wait)
        self._gathering = False
        return bool(self._inbox)

    def stop(self, patience: float = 10.0) -> None:
        """Begin no more steps, give those that must not be cut in two ``patience`` seconds, commit, let go.

        Runs under way stay so in the journal, and the next start goes on with them.
        """
        self.draining = True
        deadline = time.monotonic() + patience
        while self.steps.precious() and (left := deadline - time.monotonic()) > 0:
            self._turned.clear()
            self._turned.wait(min(left, 0.5))
        self.post(self.keeper.catch_up)
        self.pump()
        with self._turn:
            self.closed = True
            for run in list(self.runs.values()):
                self.steps.let_go(run)
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Every event is answered, those that came too late for the last turn too."""
        while self._inbox:
            try:
                self._inbox.popleft()()
            except Exception:
                logger.exception("a message to the engine failed")

    def watch(self) -> None:
        """The watchdog: steps that take for ever are ended, runs that nothing moves any more get another push."""
        self.keeper.try_again()
        self.keeper.catch_up()
        oldest = time.monotonic_ns() - int(DEFAULT_TIMEOUT * 1e9)
        queued = {(run.id, index) for run, index in self.ready}
        queued |= {(run.id, index) for _, _, run, index in self.ranked}
        queued |= self.steps.fenced()
        for run in list(self.runs.values()):
            for flight in list(run.running.values()):
                if not flight.timer and flight.started < oldest:
                    self.steps.timed_out(flight, DEFAULT_TIMEOUT)
            if run.state is RunState.RUNNING and not (run.running or run.parked or run.families):
                for index, status in enumerate(run.walk.status):
                    if status == READY and (run.id, index) not in queued:
                        logger.warning("watchdog: step %s of run %s was stuck", run.node(index).id, run.text)
                        self.push(run, index)

    def _take_inbox(self) -> None:
        for _ in range(min(len(self._inbox), MAX_BATCH)):
            work = self._inbox.popleft()
            try:
                work()
            except Exception:
                logger.exception("a message to the engine failed")

    def _run_ready(self) -> None:
        if not self._has_ready():
            return
        deadline = time.monotonic() + self._slice
        self._commit_by = deadline if self._commit_by is None else self._commit_by
        ready, ranked = self.ready, self.ranked
        begin = self.steps.begin
        count = 0
        while ready or ranked:
            if ranked and (not ready or ranked[0][0] < 0):
                _, _, run, index = heapq.heappop(ranked)
            else:
                run, index = ready.popleft()
            if not run.ended:
                try:
                    begin(run, index)
                except Exception as exc:
                    self.steps.broke(run, index, exc)
            count += 1
            if not count & 15 and time.monotonic() > deadline:
                return

    def _slice_over(self) -> bool:
        return self._commit_by is not None and time.monotonic() >= self._commit_by

    def commit(self) -> None:
        """Write what happened, then tell those who wait for it and begin the fenced effects."""
        self._commit_by = None
        self._lazy_until = 0.0
        began = time.monotonic()
        touched, callbacks = self.keeper.commit()
        self._slice = min(max(SHORTEST_SLICE, SLICE_PER_COMMIT * (time.monotonic() - began)), LONGEST_SLICE)
        self.still_ours()
        # One that had no company will hardly get some.
        self._not_before = time.monotonic() + COMPANY if len(touched) > 1 else 0.0
        self._last_company = len(touched)
        self.chronicle.tell(touched)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("a callback behind a commit failed")
        self.steps.begin_fenced()

    def push(self, run: LiveRun, index: int) -> None:
        """A step is ready."""
        priority = run.flow_plan.settings.priority
        if priority:
            heapq.heappush(self.ranked, (-priority, next(self._ranks), run, index))
        else:
            self.ready.append((run, index))
