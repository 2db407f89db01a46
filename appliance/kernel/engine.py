"""The runs under way: events become runs, a flow's mode says when they begin, and every run comes to an end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from appliance.contracts import Busy, FlowError, RunEnded
from appliance.engine import trace
from appliance.engine.plan import FlowPlan
from appliance.engine.runner import READY
from appliance.engine.states import Letter, RunState
from appliance.engine.trace import Record
from appliance.kernel.abroad import Outgoing, Placing, Visitors
from appliance.kernel.context import Services, judge_for
from appliance.kernel.families import Families
from appliance.kernel.keeper import Nowhere
from appliance.kernel.runs import FlowSlot, LiveRun, event_view, key_of
from appliance.kernel.steps import Steps
from appliance.kernel.submission import AlreadyRan, Submission
from appliance.kernel.turns import Turns
from appliance.store.journal import Journal
from appliance.store.runids import to_text

logger = logging.getLogger(__name__)

RECENT_EVENTS = 2_000


class Engine(Turns):
    """All runs under way in this process. Only :meth:`post` and :meth:`submit` may be called from outside its thread.

    ``placement``, ``guests`` and ``outbox`` are its part in the work across engines, set by who puts it together.
    """

    steps: Steps
    placement: Placing
    guests: Visitors
    outbox: Outgoing

    def __init__(
        self,
        journal: Journal,
        services: Services,
        load_plan: Callable[[int], FlowPlan],
        ring: Callable[[], None],
        queue_bound: int = 10_000,
        max_snapshot: int = 65_536,
    ) -> None:
        super().__init__(journal, services, ring, max_snapshot)
        self.journal = journal
        self.queue_bound = queue_bound
        self.flows: dict[int, FlowSlot] = {}
        self.keeper.let_go = lambda number: self.let_go(self.runs[number]) if number in self.runs else None
        self.steps = Steps(self)
        self.families = Families(self, self.steps.waits.wake)
        self.listeners: list[Callable[[RunEnded], None]] = []
        self.find_flow: Callable[[int], FlowSlot | None] = lambda num: None
        #: Raises ``Elsewhere`` for a flow that is another kernel's.
        self.require_home: Callable[[int], None] = lambda num: None
        self.counts: dict[str, int] = {}
        self._load_plan = load_plan
        self._plans: dict[int, FlowPlan] = {}

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
            self.steps.waits.wake(run, index, "signal", name, value)
        return len(waiting)

    def note(self, run: LiveRun, text: str) -> None:
        """Keep a line about the run as a whole."""
        self.keeper.record(run, Record(trace.NOTE, 0, 0, self.keeper.since(run), 0, "", text))


def _call(callback: Callable[[Any], Any], value: Any) -> None:
    try:
        callback(value)
    except Exception:
        logger.exception("a callback of an event failed")
