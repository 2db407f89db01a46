"""The engine loop: takes events, runs steps, commits, has effects; one thread at a time, many runs together.

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
from functools import partial
from typing import Any

from appliance.contracts import Busy, FlowError, RunEnded
from appliance.engine import trace
from appliance.engine.plan import FlowPlan
from appliance.engine.runner import READY
from appliance.engine.states import Letter, RunState
from appliance.engine.trace import Record
from appliance.kernel.context import Services, judge_for
from appliance.kernel.families import Families
from appliance.kernel.keeper import Keeper, Nowhere
from appliance.kernel.peering.events import PeerEvents
from appliance.kernel.peering.guests import Guests
from appliance.kernel.peering.outbox import Outbox
from appliance.kernel.peering.placement import Placement
from appliance.kernel.runs import FlowSlot, LiveRun, event_view, key_of
from appliance.kernel.steps import DEFAULT_TIMEOUT, Steps
from appliance.kernel.submission import AlreadyRan, Submission
from appliance.kernel.timers import Timers
from appliance.store.journal import Journal
from appliance.store.runids import to_text

logger = logging.getLogger(__name__)

#: A turn commits after this long even if more steps are ready, so that nobody waits for a busy flow.
SLICE = 0.004
#: Shortest time between two commits, so that under load many runs share one.
COMPANY = 0.0025
#: So many runs in one commit need no further company.
ENOUGH = 16
#: How long an outcome may wait for company that nobody waits for, and whose effect may be had again after a crash.
LAZINESS = 0.008
MAX_BATCH = 512
RECENT_EVENTS = 2_000


class Engine:
    """All runs under way in this process. Only :meth:`post` and :meth:`submit` may be called from outside it."""

    def __init__(
        self,
        journal: Journal,
        services: Services,
        load_plan: Callable[[int], FlowPlan],
        ring: Callable[[], None],
        queue_bound: int = 10_000,
        max_snapshot: int = 65_536,
    ) -> None:
        self.journal = journal
        self.services = services
        self.queue_bound = queue_bound
        self.flows: dict[int, FlowSlot] = {}
        self.runs: dict[int, LiveRun] = {}
        self.ready: deque[tuple[LiveRun, int]] = deque()
        #: Steps of flows with a priority: more urgent ones and, behind all of ``ready``, less urgent ones.
        self.ranked: list[tuple[int, int, LiveRun, int]] = []
        self._ranks = itertools.count()
        self.timers = Timers(time.monotonic, services.wall, ring)
        self.keeper = Keeper(journal, services, max_snapshot)
        self.keeper.let_go = lambda number: self.let_go(self.runs[number]) if number in self.runs else None
        self.steps = Steps(self)
        self.families = Families(self)
        self.placement = Placement(self)
        self.guests = Guests(self)
        self.outbox = Outbox(self)
        self.peer_events = PeerEvents(self)
        self.listeners: list[Callable[[RunEnded], None]] = []
        self.find_flow: Callable[[int], FlowSlot | None] = lambda num: None
        #: Raises ``Elsewhere`` for a flow that is another kernel's.
        self.require_home: Callable[[int], None] = lambda num: None
        #: Does not come back if another kernel may have taken over; called before anything is done to the world.
        self.still_ours: Callable[[], None] = lambda: None
        self.live: Callable[[dict[str, Any]], None] | None = None
        self.counts: dict[str, int] = {}
        self._load_plan = load_plan
        self._plans: dict[int, FlowPlan] = {}
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
        self._commit_by: float | None = None

    # --- from any thread ---------------------------------------------------------------------------

    def post(self, work: Callable[[], None]) -> None:
        """Have the engine thread call ``work`` soon."""
        self._inbox.append(work)
        if self._idle:
            self._idle = False
            self._ring()
        elif self._gathering:
            self._knock.set()

    def submit(self, submissions: list[Submission]) -> None:
        """Start runs. Raises ``Busy`` past the queue's bound; nothing of the list is taken then."""
        if self._thread == threading.get_ident():
            # From within a turn (a run's end that starts another): in the same commit, and past the bound,
            # for there is no one who could send it again.
            self._accept_all(submissions)
            return
        if self.draining:
            raise Busy("the engine is stopping", retry_after=5.0)
        if self.load() + len(submissions) > self.queue_bound:
            raise Busy(f"more than {self.queue_bound:,} runs are waiting for their turn", retry_after=1.0)
        self.post(lambda: self._accept_all(submissions))
        if self.closed:
            # It stopped right now, and nobody takes the message any more.
            self._refuse_rest()

    def load(self) -> int:
        """Runs that want a turn now (parked ones want none)."""
        return len(self.runs) - self.keeper.waiting + len(self._inbox)

    # --- one turn ----------------------------------------------------------------------------------

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
        deadline = time.monotonic() + SLICE
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
        touched, callbacks = self.keeper.commit()
        self.still_ours()
        # One that had no company will hardly get some.
        self._not_before = time.monotonic() + COMPANY if len(touched) > 1 else 0.0
        self._last_company = len(touched)
        if self.live is not None:
            try:
                self._tell(touched)
            except Exception:
                logger.exception("those who watch live could not be told")
        for callback in callbacks:
            try:
                callback()
            except Exception:
                logger.exception("a callback behind a commit failed")
        self.steps.begin_fenced()

    def _tell(self, touched: list[LiveRun]) -> None:
        assert self.live is not None
        for run in touched:
            news, run.news = run.news, []
            self.live(
                {
                    "type": "run",
                    "run": run.text,
                    "flow": run.flow.id,
                    "version": run.version,
                    "place": run.place,
                    "trigger": run.trigger,
                    "state": run.state.label,
                    "accepted": run.accepted,
                    "finished": run.finished,
                    "parent": to_text(run.parent) if run.parent else None,
                    "origin": to_text(run.origin) if run.origin else None,
                    "error": _in_short(run.error),
                    "letter": run.letter.name.lower(),
                    "steps": news,
                }
            )

    # --- accepting events ----------------------------------------------------------------------------

    def _accept_all(self, submissions: list[Submission]) -> None:
        for submission in submissions:
            try:
                if self.closed:
                    raise Busy("the engine is stopping", retry_after=5.0)
                self.accept(submission)
            except Exception as exc:
                error = exc if isinstance(exc, FlowError) else FlowError(f"{type(exc).__name__}: {exc}")
                logger.warning("an event of flow %s was refused: %s", submission.flow, error)
                if submission.refused is not None:
                    _call(submission.refused, error)

    def accept(self, sub: Submission) -> LiveRun | None:
        """Make a run of an event, or recognise the event. Raises ``FlowError`` when no run can be made."""
        flow = self.slot(sub.flow)
        if flow is None:
            raise FlowError("the flow does not exist any more", retryable=False)
        self.require_home(sub.flow)
        if not sub.starts_run:
            self.signal(flow, f"trigger:{sub.trigger}", {"payload": sub.event.payload, "meta": sub.event.meta})
            if sub.committed is not None:
                self.keeper.after_commit(lambda: sub.committed and sub.committed(""))
            return None
        if self._known(flow, sub):
            return None
        version = sub.version if sub.version is not None else flow.live
        if version is None:
            raise FlowError(f"flow {flow.id!r} is not deployed", retryable=False)
        run = self._new_run(flow, version, sub)
        if sub.poison:
            self._end(run, RunState.DEAD, {"id": "poison", "message": sub.poison})
            return run
        try:
            self._admit(run, sub)
        except Exception as exc:
            # It is a run by now, and those who wait for it are told how it ended.
            logger.exception("run %s could not begin", run.text)
            self.fail(run, {"id": getattr(exc, "id", "node-failed"), "message": f"the run could not begin: {exc}"})
        return run

    def _known(self, flow: FlowSlot, sub: Submission) -> bool:
        """True if this event has its run already; those who wait are told which."""
        event = sub.event
        found: int | None = None
        if event.unique and event.id:
            found = self.keeper.run_of_key(key_of(flow.num, sub.trigger, event.id))
        elif event.redelivered and event.id:
            found = self._recent(flow, sub.trigger, event.id)
        if found is None:
            return False
        text, running = to_text(found), self.runs.get(found)
        if sub.committed is not None:
            committed = sub.committed
            self.keeper.after_commit(lambda: committed(text))
        if sub.ended is not None:
            if running is not None:
                running.on_end.append(sub.ended)
            elif sub.refused is not None:
                refused = sub.refused
                self.keeper.after_commit(lambda: refused(AlreadyRan(text)))
        return True

    def _recent(self, flow: FlowSlot, trigger: str, event_id: str) -> int | None:
        for run in flow.active.values():
            if run.trigger == trigger and run.event.get("id") == event_id:
                return run.id
        self.keeper.catch_up()
        self.commit()
        for number, data in self.journal.recent_events(flow.num, trigger, RECENT_EVENTS):
            if trace.unpack(data)[0] == event_id:
                return number
        return None

    def _new_run(self, flow: FlowSlot, version: int, sub: Submission) -> LiveRun:
        now = self.services.wall()
        run = LiveRun(self.journal.ids.next(now), flow, version, self.plan(version), sub.place)
        event = sub.event
        run.trigger = sub.trigger
        run.accepted = int(now * 1e6)
        run.event = event_view(event, sub.kind, sub.trigger, run.accepted / 1e6)
        run.parent, run.item, run.origin = sub.parent, sub.item, sub.origin
        run.walk.payload = event.payload
        run.walk.begin_at(run.place, run.event)
        item = list(sub.item) if sub.item else None
        run.event_data, run.walk.payload = self.keeper.pack_event(run, event, item)
        if event.cursor is not None:
            self.keeper.state_ops(run, {f"@cursor:{sub.trigger}": event.cursor})
        if event.unique and event.id:
            self.keeper.remember_key(key_of(flow.num, sub.trigger, event.id), run.id)
        if sub.committed is not None:
            committed, text = sub.committed, run.text
            self.keeper.after_commit(lambda: committed(self.keeper.taken.pop(text, text)))
        if sub.ended is not None:
            run.on_end.append(sub.ended)
        self.hold(run)
        self.keeper.touch(run)
        return run

    def hold(self, run: LiveRun) -> None:
        """The run is under way from here."""
        self.runs[run.id] = run
        run.flow.active[run.id] = run
        run.flow.inner += bool(run.place)

    def _admit(self, run: LiveRun, sub: Submission) -> None:
        """Start the run now, later or not at all, as its flow's mode says."""
        flow, settings = run.flow, run.flow_plan.settings
        others = flow.under_way() - 1
        if sub.prepare is not None:
            sub.prepare(run)
        if sub.bypass_mode or not others:
            self.start(run)
        elif settings.mode == "single":
            self._end(
                run,
                RunState.SKIPPED,
                {"id": "skipped", "message": "another run was under way (mode: single)"},
            )
        elif settings.mode == "restart":
            for other in list(flow.active.values()):
                if other is not run and other.parent is None:
                    self.cancel(other, "a newer run took its place (mode: restart)")
            self.start(run)
        elif settings.mode == "queued" or others >= settings.max_runs:
            run.state = RunState.QUEUED
            flow.queue.append(run)
        else:
            self.start(run)

    def start(self, run: LiveRun) -> None:
        """Give a run its first turn."""
        if run.state is RunState.QUEUED:
            run.state = RunState.RUNNING
            run.needs_update = run.row_written
            self.keeper.touch(run)
        walk = run.walk
        self.limit(run, 0.0)
        ready = walk.start()
        if run.seeds:
            ready = self._plant(run)
        for index in ready:
            self.push(run, index)
        if not walk.remaining:
            self.succeed(run)

    def limit(self, run: LiveRun, gone: float) -> None:
        """Arm the timeout of the whole run, of which ``gone`` seconds are over."""
        limit = run.plan.timeout
        if limit is not None and run.parent is None:
            run.timer = self.timers.after(max(0.0, limit - gone), lambda: self.run_timeout(run, limit))

    def _plant(self, run: LiveRun) -> list[int]:
        """Settle what a replay takes over; returns what is ready then."""
        seeds, run.seeds = run.seeds, []
        for seed in seeds:
            fired = (seed.extra or {}).get("fired")
            run.walk.settle(seed.node, seed.port, seed.value, judge_for(self.services, run, seed.node), fired)
            if run.node(seed.node).conditional:
                seed.extra = {"fired": run.walk.fired_edges}
            self.keeper.record(run, seed)
        run.walk.force_overrides()
        return [index for index, status in enumerate(run.walk.status) if status == READY]

    def push(self, run: LiveRun, index: int) -> None:
        """A step is ready."""
        priority = run.flow_plan.settings.priority
        if priority:
            heapq.heappush(self.ranked, (-priority, next(self._ranks), run, index))
        else:
            self.ready.append((run, index))

    def slot(self, num: int) -> FlowSlot | None:
        """A flow by its number, also one that is not live."""
        slot = self.flows.get(num)
        if slot is None:
            slot = self.find_flow(num)
            if slot is not None:
                self.flows[num] = slot
        return slot

    def plan(self, version: int) -> FlowPlan:
        """The plan of a version, made once."""
        plan = self._plans.get(version)
        if plan is None:
            if len(self._plans) > 256:
                in_use = {run.version for run in self.runs.values()}
                in_use |= {flow.live for flow in self.flows.values() if flow.live is not None}
                self._plans = {number: kept for number, kept in self._plans.items() if number in in_use}
            plan = self._plans[version] = self._load_plan(version)
        return plan

    # --- ending ------------------------------------------------------------------------------------

    def run_timeout(self, run: LiveRun, limit: float) -> None:
        """The whole run took too long."""
        if not run.ended:
            self.fail(run, {"id": "timed-out", "message": f"the run took longer than {limit:g} s"})

    def fail(self, run: LiveRun, error: dict[str, Any]) -> None:
        """End a run as failed; it goes to the dead-letter list unless it is somebody's child."""
        if run.parent is None:
            run.letter = Letter.OPEN
        self._end(run, RunState.FAILED, error)

    def cancel(self, run: LiveRun, reason: str) -> None:
        """End a run as cancelled."""
        if not run.ended:
            self._end(run, RunState.CANCELLED, {"id": "cancelled", "message": reason})

    def succeed(self, run: LiveRun) -> None:
        """Every step has settled."""
        self._end(run, RunState.SUCCEEDED, None)

    def _end(self, run: LiveRun, state: RunState, error: dict[str, Any] | None) -> None:
        if run.ended:
            return
        before, run.state = run.state, state
        if state is RunState.DEAD:
            run.letter = Letter.OPEN
        run.finished = int(self.services.wall() * 1e6)
        run.needs_update = run.row_written
        run.error = self.keeper.clean(error) if error is not None else None
        self.keeper.touch(run)
        self._forget(run, before)
        self.counts[state.label] = self.counts.get(state.label, 0) + 1
        if run.on_end:
            callbacks, run.on_end = run.on_end, []
            for callback in callbacks:
                self.keeper.after_commit(partial(callback, run))
        if run.parent is not None:
            self.families.child_ended(run)
        elif self.listeners and state is not RunState.SKIPPED:
            self._announce(run)
        self.next_in_queue(run.flow)

    def _forget(self, run: LiveRun, before: RunState) -> None:
        """Let go of all that a run held while it was under way."""
        if before is RunState.WAITING:
            self.keeper.waiting -= 1
        if run.timer:
            self.timers.cancel(run.timer)
        self.steps.abandon(run)
        self.families.abandon(run)
        if self.runs.pop(run.id, None) is not None:
            run.flow.inner -= bool(run.place)
        run.flow.active.pop(run.id, None)
        if before is RunState.QUEUED and run in run.flow.queue:
            run.flow.queue.remove(run)

    def let_go(self, run: LiveRun) -> None:
        """Another kernel has the run, or has made one of the same event: forget it, without a word in the journal."""
        families, run.families = run.families, {}
        for family in families.values():
            self.families.forget_timer(family)
        before, run.state = run.state, RunState.CANCELLED
        run.dirty, run.records = True, Nowhere()
        self._forget(run, before)

    def _announce(self, run: LiveRun) -> None:
        output = run.output() if run.state is RunState.SUCCEEDED else None
        ended = RunEnded(run.flow.id, run.text, run.state.label, output, run.error, run.event)
        for listener in list(self.listeners):
            try:
                listener(ended)
            except Exception:
                logger.exception("a listener to ended runs failed")

    def next_in_queue(self, flow: FlowSlot) -> None:
        while flow.queue:
            settings = flow.queue[0].flow_plan.settings
            if flow.under_way() >= (settings.max_runs if settings.mode == "parallel" else 1):
                return
            self.start(flow.queue.popleft())

    # --- signals -----------------------------------------------------------------------------------

    def signal(self, flow: FlowSlot, name: str, value: Any) -> int:
        """Wake the parked steps of a flow that wait for ``name``; returns how many."""
        waiting = [
            (run, parked.index)
            for run in list(flow.active.values())
            for parked in list(run.parked.values())
            if name in parked.signals
        ]
        for run, index in waiting:
            self.steps.wake(run, index, "signal", name, value)
        return len(waiting)

    def note(self, run: LiveRun, text: str) -> None:
        """Keep a line about the run as a whole."""
        self.keeper.record(run, Record(trace.NOTE, 0, 0, self.keeper.since(run), 0, "", text))


def _in_short(error: Any) -> Any:
    """An error without its detail, which may be long."""
    return {key: value for key, value in error.items() if key != "detail"} if isinstance(error, dict) else error


def _call(callback: Callable[[Any], Any], value: Any) -> None:
    try:
        callback(value)
    except Exception:
        logger.exception("a callback of an event failed")
