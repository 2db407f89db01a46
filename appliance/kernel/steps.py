"""Carrying out steps: begin, fence, execute, and what becomes of the result, the failure or the wait."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

import msgspec

from appliance.contracts import (
    Effect,
    ExpressionError,
    FlowError,
    NodeError,
    Out,
    Park,
    Pending,
    Spawn,
    TimedOut,
    Wake,
)  # fmt: skip
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.engine.trace import Record
from appliance.engine.validate import ERROR_PORT
from appliance.kernel.abroad import Outgoing, Placing, Visitors
from appliance.kernel.chronicle import Chronicle
from appliance.kernel.context import Services, StepContext, judge_for
from appliance.kernel.families import Families, pack_spawn
from appliance.kernel.flights import DEFAULT_TIMEOUT, Flight, backoff, describe
from appliance.kernel.io import Io
from appliance.kernel.keeper import Keeper
from appliance.kernel.models import account_of
from appliance.kernel.runs import GUEST, FlowSlot, LiveRun
from appliance.kernel.timers import Timers
from appliance.kernel.waits import Waits

logger = logging.getLogger(__name__)

ASK_UNVERIFIED = {"title": "Was it done?", "choices": ["retry", "skip", "fail"]}


class EngineOfSteps(Protocol):
    """What carrying out steps needs of the engine."""

    keeper: Keeper
    chronicle: Chronicle
    services: Services
    timers: Timers
    families: Families
    placement: Placing
    guests: Visitors
    outbox: Outgoing
    runs: dict[int, LiveRun]
    draining: bool
    still_ours: Callable[[], None]

    def post(self, work: Callable[[], None]) -> None: ...

    def push(self, run: LiveRun, index: int) -> None: ...

    def fail(self, run: LiveRun, error: dict[str, Any]) -> None: ...

    def succeed(self, run: LiveRun) -> None: ...

    def signal(self, flow: FlowSlot, name: str, value: Any) -> int: ...


class Steps:
    """The engine's hands. Everything here runs on the engine thread."""

    def __init__(self, engine: EngineOfSteps) -> None:
        self._engine = engine
        self._keeper = engine.keeper
        self._record = engine.chronicle.record
        self._news = engine.chronicle.news
        self.waits = Waits(engine.keeper, engine.chronicle, engine.timers, engine.push, self.resume)
        self._fenced: list[tuple[LiveRun, int, int, Wake | None]] = []
        self._async: dict[type, tuple[bool, bool]] = {}
        self.io = Io()

    # --- beginning ---------------------------------------------------------------------------------

    def begin(self, run: LiveRun, index: int) -> None:
        """Run a ready step now, or behind the next commit if it has an effect."""
        node = run.plan.nodes[index]
        if node.spec.disabled:
            flight = Flight(run, index, 1, self._keeper.since(run))
            flight.payload = run.walk.payload_of(index)
            self.done(flight, "out", flight.payload)
            return
        attempt = run.attempts.get(index, 0) + 1
        run.attempts[index] = attempt
        if (node.needs or run.parent is not None) and self._engine.placement.begin(run, index, attempt):
            return
        self.here(run, index, attempt)

    def here(self, run: LiveRun, index: int, attempt: int) -> None:
        """Do it on this engine."""
        if run.plan.nodes[index].effect is Effect.PURE:
            self._execute(run, index, attempt, None)
            return
        self._fence(run, index, attempt, None)

    def _fence(self, run: LiveRun, index: int, attempt: int, wake: Wake | None) -> None:
        """Execute a step with an effect as soon as all that led to it is on disk."""
        if run.plan.nodes[index].effect is Effect.ONCE:
            self._record(run, Record(trace.INTENT, index, attempt, self._keeper.since(run), 0, "", None))
        if run.dirty:
            self._fenced.append((run, index, attempt, wake))
        else:
            self._engine.still_ours()
            self._execute(run, index, attempt, wake)

    def begin_fenced(self) -> None:
        """Everything that led to these steps is on disk now."""
        fenced, self._fenced = self._fenced, []
        for run, index, attempt, wake in fenced:
            if run.ended:
                continue
            if self._engine.draining and wake is None:
                self._take_back(run, index, attempt)
                continue
            try:
                self._execute(run, index, attempt, wake)
            except Exception as exc:
                self.broke(run, index, exc)

    def _take_back(self, run: LiveRun, index: int, attempt: int) -> None:
        """The engine stops before a step began: its intent must not look like one that was cut off."""
        if run.node(index).effect is Effect.ONCE:
            error = {"id": "stopped", "message": "the engine was stopped before this began", "node": run.node(index).id}
            extra = {"again": self._engine.services.wall()}
            at = self._keeper.since(run)
            self._record(run, Record(trace.RETRY, index, attempt - 1, at, 0, "", error, extra))

    def broke(self, run: LiveRun, index: int, exc: Exception) -> None:
        """Something failed that should not have: the run ends, and says so."""
        logger.error("step %s of run %s failed inside the engine", run.node(index).id, run.text, exc_info=exc)
        if not run.ended:
            self._engine.fail(run, describe(exc, run.node(index).id))

    def _execute(self, run: LiveRun, index: int, attempt: int, wake: Wake | None) -> None:
        node = run.plan.nodes[index]
        flight = Flight(run, index, attempt, self._keeper.since(run))
        payload = flight.payload = run.walk.payload_of(index)
        limit = node.timeout
        ctx = self.context(run, index, attempt, payload)
        if ctx is None:
            return
        flight.ctx = ctx
        kind = node.kind
        try:
            plan = node.config
            config = plan.constant
            if config is None:
                values = ctx.given if ctx.given is not None else plan.rendered(ctx.scope(plan.names))
                config = plan.decode(values)
                flight.rendered = {name: values[name] for name in plan.dynamic}
            if kind.inline:
                result = kind.run(ctx, config, payload) if wake is None else kind.resume(ctx, config, payload, wake)
            else:
                result = self._launch(flight, kind, config, wake)
        except Exception as exc:
            self.failed(flight, exc)
            return
        self._handle(flight, result, limit)

    def context(self, run: LiveRun, index: int, attempt: int, payload: Any) -> StepContext | None:
        """What an attempt receives; None if a peer whose step it is has to be asked for something first."""
        limit = run.plan.nodes[index].timeout
        deadline = DEFAULT_TIMEOUT if limit is None else limit
        if run.trigger == GUEST:
            return self._engine.guests.context(run, index, attempt, payload, deadline)
        return StepContext(self._engine.services, run, index, attempt, payload, deadline)

    def _launch(self, flight: Flight, kind: Any, config: Any, wake: Wake | None) -> Any:
        """Start work that may take a while; an ``async def`` gives its coroutine, a blocking one a future."""
        ctx, payload = flight.ctx, flight.payload
        method = kind.run if wake is None else kind.resume
        arguments = (ctx, config, payload) if wake is None else (ctx, config, payload, wake)
        is_async = self._async.get(type(kind))
        if is_async is None:
            is_async = self._async[type(kind)] = (
                inspect.iscoroutinefunction(kind.run),
                inspect.iscoroutinefunction(kind.resume),
            )
        if is_async[0 if wake is None else 1]:
            return method(*arguments)
        return self.io.call(lambda: method(*arguments))

    def _handle(self, flight: Flight, result: Any, limit: float | None) -> None:
        if isinstance(result, Pending):
            self._fly(flight, limit)
            post, complete = self._engine.post, self._complete
            result.then(lambda value, error: post(lambda: complete(flight, value, error)))
        elif isinstance(result, Future) or inspect.iscoroutine(result):
            self._fly(flight, limit)
            flight.future = result if isinstance(result, Future) else self.io.spawn(result)
            flight.future.add_done_callback(self._landing(flight))
        else:
            self._complete(flight, result, None)

    def _fly(self, flight: Flight, limit: float | None) -> None:
        """The step is under way; without a timeout of its own the watchdog looks after it."""
        flight.run.running[flight.index] = flight
        if flight.run.state is RunState.WAITING:
            self.waits.settle_state(flight.run)
        if limit is not None:
            flight.timer = self._engine.timers.after(limit, lambda: self.timed_out(flight, limit))
        self._news(flight.run, flight.index, "started", flight.attempt)

    def _landing(self, flight: Flight) -> Callable[[Future[Any]], None]:
        def landed(future: Future[Any]) -> None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = future.result()
            except (CancelledError, asyncio.CancelledError):
                error = FlowError("the work was cancelled")
            except BaseException as exc:
                error = exc
            self._engine.post(lambda: self._complete(flight, value, error))

        return landed

    def timed_out(self, flight: Flight, limit: float) -> None:
        """A step took too long: end its work."""
        if not flight.over and not flight.run.ended:
            flight.end_work()
            flight.over = False
            self._complete(flight, None, TimedOut(f"the step took longer than {limit:g} s and was ended"))

    # --- results -----------------------------------------------------------------------------------

    def _complete(self, flight: Flight, value: Any, error: BaseException | None) -> None:
        run = flight.run
        if flight.over or run.ended:
            return
        flight.over = True
        run.running.pop(flight.index, None)
        if flight.timer:
            self._engine.timers.cancel(flight.timer)
        # Lost in a crash, such an outcome is had again with the same key.
        self._keeper.relaxed = run.node(flight.index).effect is Effect.IDEMPOTENT
        try:
            if used := self._engine.services.model_use(run.flow.num):
                self._keeper.state_ops(run, used, account_of(run.flow.num))
            self._land(flight, value, error)
        except Exception as exc:
            self.broke(run, flight.index, exc)
        finally:
            self._keeper.relaxed = False
        if (run.parked or run.families) and not run.ended:
            self.waits.settle_state(run)

    def _land(self, flight: Flight, value: Any, error: BaseException | None) -> None:
        if error is not None:
            self.failed(flight, error)
        elif isinstance(value, Out):
            port: Any = value.port
            if isinstance(port, str):
                self.done(flight, port, value.value)
            else:
                self.failed(flight, NodeError(f"{port!r} is not the name of a port", retryable=False))
        elif isinstance(value, Park):
            self._park(flight, value)
        elif isinstance(value, Spawn):
            self._spawn(flight, value)
        else:
            self.done(flight, "out", value)

    def done(self, flight: Flight, port: str, value: Any) -> None:
        run, index = flight.run, flight.index
        node, walk = run.plan.nodes[index], run.walk
        # What is the very output (a transform's values) is not written twice.
        if flight.rendered:
            flight.rendered = {name: given for name, given in flight.rendered.items() if given != value}
        extra = flight.extra()
        ready: list[int] | None = None
        if node.conditional:
            judge = judge_for(self._engine.services, run, index)
            try:
                ready = walk.settle(index, port, value, judge)
            except Exception as exc:
                error = exc if isinstance(exc, ExpressionError) else ExpressionError(f"{type(exc).__name__}: {exc}")
                if port == ERROR_PORT:
                    self._fail(flight, describe(error, node.id), extra)
                else:
                    self.failed(flight, error)
                return
            extra = {**(extra or {}), "fired": walk.fired_edges}
        kind, kept = (trace.SAME, None) if value is flight.payload else (trace.DONE, value)
        took = flight.took()
        kept = self._record(run, Record(kind, index, flight.attempt, flight.at, took, port, kept, extra))
        output = value if kind == trace.SAME else kept
        if ready is None:
            ready = walk.settle(index, port, output)
        else:
            walk.outputs[index] = output
        self._after_step(flight)
        for following in ready:
            self._engine.push(run, following)
        if walk.remaining == 0 and not run.ended:
            self._engine.succeed(run)

    def _after_step(self, flight: Flight) -> None:
        """State changes and signals of a step count from here."""
        ctx = flight.ctx
        if ctx is None:
            return
        if ctx.changes:
            self._keeper.state_ops(flight.run, ctx.changes)
        if ctx.outgoing:
            self._engine.outbox.put(flight.run, ctx.outgoing)
        for name, value in ctx.signals:
            self._engine.signal(flight.run.flow, name, value)

    def failed(self, flight: Flight, exc: BaseException) -> None:
        run, index, attempt = flight.run, flight.index, flight.attempt
        node = run.plan.nodes[index]
        flight.over = True
        error = describe(exc, node.id)
        retryable = exc.retryable if isinstance(exc, FlowError) else True
        if run.trigger == GUEST:
            # Whether it is tried again is for the engine to decide whose step it is.
            error["retryable"] = retryable
        extra = flight.extra()
        took = flight.took()
        if retryable and attempt < node.retry.attempts:
            delay = backoff(node.retry.backoff, node.retry.max_backoff, node.retry.jitter, attempt, error)
            again = self._engine.services.wall() + delay
            extra = {**(extra or {}), "again": again}
            self._record(run, Record(trace.RETRY, index, attempt, flight.at, took, "", error, extra))
            self.waits.retry_in(run, index, delay)
        elif node.wired_error:
            self.done(flight, ERROR_PORT, {"error": self._keeper.clean(error), "payload": flight.payload})
        else:
            self._fail(flight, error, extra)

    def _fail(self, flight: Flight, error: dict[str, Any], extra: dict[str, Any] | None) -> None:
        run, took = flight.run, flight.took()
        self._record(run, Record(trace.FAILED, flight.index, flight.attempt, flight.at, took, "", error, extra))
        self._engine.fail(run, error)

    # --- waiting -----------------------------------------------------------------------------------

    def _park(self, flight: Flight, park: Park) -> None:
        run, index = flight.run, flight.index
        until = None if park.until is None else float(park.until)
        ask = None if park.ask is None else self._keeper.clean(dict(park.ask))
        extra: dict[str, Any] = flight.extra() or {}
        extra |= {"until": until, "signals": list(park.signals), "ask": ask}
        extra = {key: value for key, value in extra.items() if value or key == "until"}
        took = flight.took()
        memo = self._record(run, Record(trace.PARKED, index, flight.attempt, flight.at, took, "", park.memo, extra))
        self._after_step(flight)
        if not run.ended:
            self.waits.park(run, index, flight.attempt, Park(until, tuple(park.signals), memo, ask))

    def resume(self, run: LiveRun, index: int, attempt: int, wake: Wake) -> None:
        """Call the node's ``resume``."""
        run.attempts[index] = max(attempt, 1)
        if run.plan.nodes[index].effect is Effect.PURE:
            self._execute(run, index, attempt, wake)
        else:
            self._fence(run, index, attempt, wake)

    def decide(self, run: LiveRun, index: int, decision: str, who: str) -> None:
        """A person's word on a ``once`` step that a crash cut off: ``retry``, ``skip`` or ``fail``."""
        parked = run.parked.pop(index)
        extra = {"kind": "decision", "signal": decision}
        at = self._keeper.since(run)
        self._record(run, Record(trace.WOKEN, index, parked.attempt, at, 0, "", who, extra))
        self.waits.settle_state(run)
        self.carry_out(run, index, parked.attempt, decision)

    def unverified(self, run: LiveRun, index: int, attempt: int) -> None:
        """A ``once`` step was cut off in the middle: do as its policy says."""
        policy = run.node(index).on_crash
        if policy != "ask":
            self.carry_out(run, index, attempt, policy)
            return
        self._record(run, Record(trace.UNVERIFIED, index, attempt, self._keeper.since(run), 0, "", None))
        self.waits.park(run, index, attempt, Park(ask=ASK_UNVERIFIED), unverified=True)

    def carry_out(self, run: LiveRun, index: int, attempt: int, decision: str) -> None:
        """What is done with a cut-off ``once`` step."""
        run.attempts[index] = max(attempt - 1, 0)
        if decision == "retry":
            self._engine.push(run, index)
            return
        flight = Flight(run, index, attempt, self._keeper.since(run))
        flight.payload = run.walk.payload_of(index)
        if decision == "skip":
            self.done(flight, "out", flight.payload)
            return
        message = "cut off by a crash in the middle; whether it had its effect is not known"
        error = {"id": "unverified", "message": message, "node": run.plan.nodes[index].id}
        self._record(run, Record(trace.FAILED, index, attempt, flight.at, 0, "", error, None))
        self._engine.fail(run, error)

    def _spawn(self, flight: Flight, spawn: Spawn) -> None:
        run, index = flight.run, flight.index
        extra: dict[str, Any] = flight.extra() or {}
        extra["spawn"] = pack_spawn(spawn)
        took = flight.took()
        items = list(spawn.items)
        spawn = msgspec.structs.replace(spawn, items=items)
        self._record(run, Record(trace.SPAWNED, index, flight.attempt, flight.at, took, "", items, extra))
        self._after_step(flight)
        if not run.ended:
            self._engine.families.begin(run, index, spawn)
            self.waits.settle_state(run)

    # --- ending ------------------------------------------------------------------------------------

    def precious(self) -> bool:
        """Some ``once`` step is in the middle of its effect."""
        runs = list(self._engine.runs.values())
        return any(run.node(index).effect is Effect.ONCE for run in runs for index in list(run.running))

    def fenced(self) -> set[tuple[int, int]]:
        """Run and number of the steps that wait for the next commit."""
        return {(run.id, index) for run, index, _, _ in self._fenced}

    def let_go(self, run: LiveRun) -> None:
        """The process ends: stop the work of a run's steps without a word in the journal."""
        for flight in list(run.running.values()):
            flight.end_work()

    def abandon(self, run: LiveRun) -> None:
        """The run is over: end the work of its steps and forget its waits."""
        for flight in list(run.running.values()):
            flight.end_work()
            if flight.timer:
                self._engine.timers.cancel(flight.timer)
        run.running.clear()
        for parked in run.parked.values():
            if parked.away is not None:
                self._engine.placement.forget(parked.away)
        self.waits.forget(run)
