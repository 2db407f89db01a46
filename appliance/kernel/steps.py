"""Carrying out steps: begin, fence, execute, and what becomes of the result, the failure or the wait."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

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
    seconds,
)  # fmt: skip
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.engine.trace import Record
from appliance.engine.validate import ERROR_PORT
from appliance.kernel.context import StepContext, judge_for
from appliance.kernel.families import pack_spawn
from appliance.kernel.io import Io
from appliance.kernel.models import account_of
from appliance.kernel.runs import GUEST, LiveRun, Parked

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 3600.0
ASK_UNVERIFIED = {"title": "Was it done?", "choices": ["retry", "skip", "fail"]}
MAX_ERROR = 8_000


class Flight:
    """One attempt at a step that is under way."""

    __slots__ = (
        "at",
        "attempt",
        "ctx",
        "future",
        "index",
        "over",
        "payload",
        "rendered",
        "run",
        "started",
        "timer",
        "where",
    )

    def __init__(self, run: LiveRun, index: int, attempt: int, at: int) -> None:
        self.run = run
        self.index = index
        self.attempt = attempt
        self.at = at
        self.started = time.monotonic_ns()
        self.payload: Any = None
        self.rendered: dict[str, Any] | None = None
        self.ctx: StepContext | None = None
        self.future: Future[Any] | None = None
        self.timer = 0
        self.over = False
        #: The engine that did it, if it was another one: its name, and the run there.
        self.where: dict[str, Any] | None = None

    def end_work(self) -> None:
        """Really end what the step is doing."""
        self.over = True
        if self.future is not None:
            self.future.cancel()
        if self.ctx is not None:
            try:
                self.ctx.cancel()
            except Exception:
                logger.exception("ending the work of %s failed", self.ctx.step)


class Steps:
    """The engine's hands. Everything here runs on the engine thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keeper = engine.keeper
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
            self.record(run, Record(trace.INTENT, index, attempt, self._keeper.since(run), 0, "", None))
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
            self.record(run, Record(trace.RETRY, index, attempt - 1, at, 0, "", error, extra))

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
            self.settle_state(flight.run)
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
            self.settle_state(run)

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

    def _took(self, flight: Flight) -> int:
        return (time.monotonic_ns() - flight.started) // 1000

    def _extra(self, flight: Flight) -> dict[str, Any] | None:
        """What is kept beside the output: the rendered config, what templates looked up, logs."""
        ctx = flight.ctx
        if ctx is None or not (flight.rendered or ctx.saw or ctx.logs or flight.where):
            return None
        extra: dict[str, Any] = {}
        if flight.where:
            extra["where"] = flight.where
        if flight.rendered:
            extra["config"] = flight.rendered
        if ctx.saw:
            extra["saw"] = ctx.saw
        if ctx.logs:
            extra["logs"] = ctx.logs
        return extra

    def done(self, flight: Flight, port: str, value: Any) -> None:
        run, index = flight.run, flight.index
        node, walk = run.plan.nodes[index], run.walk
        # What is the very output (a transform's values) is not written twice.
        if flight.rendered:
            flight.rendered = {name: given for name, given in flight.rendered.items() if given != value}
        extra = self._extra(flight)
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
        took = self._took(flight)
        kept = self.record(run, Record(kind, index, flight.attempt, flight.at, took, port, kept, extra))
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
        extra = self._extra(flight)
        took = self._took(flight)
        if retryable and attempt < node.retry.attempts:
            delay = backoff(node.retry.backoff, node.retry.max_backoff, node.retry.jitter, attempt, error)
            again = self._engine.services.wall() + delay
            extra = {**(extra or {}), "again": again}
            self.record(run, Record(trace.RETRY, index, attempt, flight.at, took, "", error, extra))
            self.retry_in(run, index, delay)
        elif node.wired_error:
            self.done(flight, ERROR_PORT, {"error": self._keeper.clean(error), "payload": flight.payload})
        else:
            self._fail(flight, error, extra)

    def _fail(self, flight: Flight, error: dict[str, Any], extra: dict[str, Any] | None) -> None:
        run, took = flight.run, self._took(flight)
        self.record(run, Record(trace.FAILED, flight.index, flight.attempt, flight.at, took, "", error, extra))
        self._engine.fail(run, error)

    def retry_in(self, run: LiveRun, index: int, delay: float) -> None:
        """Try a step again later."""
        parked = Parked(index, run.attempts.get(index, 0))
        run.parked[index] = parked

        def again() -> None:
            if run.parked.get(index) is parked and not run.ended:
                del run.parked[index]
                self.settle_state(run)
                self._engine.push(run, index)

        parked.token = self._engine.timers.after(delay, again)
        self.settle_state(run)

    # --- waiting -----------------------------------------------------------------------------------

    def _park(self, flight: Flight, park: Park) -> None:
        run, index = flight.run, flight.index
        until = None if park.until is None else float(park.until)
        ask = None if park.ask is None else self._keeper.clean(dict(park.ask))
        extra: dict[str, Any] = self._extra(flight) or {}
        extra |= {"until": until, "signals": list(park.signals), "ask": ask}
        extra = {key: value for key, value in extra.items() if value or key == "until"}
        took = self._took(flight)
        memo = self.record(run, Record(trace.PARKED, index, flight.attempt, flight.at, took, "", park.memo, extra))
        self._after_step(flight)
        if not run.ended:
            self.park(run, index, flight.attempt, Park(until, tuple(park.signals), memo, ask))

    def park(self, run: LiveRun, index: int, attempt: int, park: Park, unverified: bool = False) -> None:
        """Hold a step until its moment or signal comes (also used when a crash is recovered from)."""
        parked = Parked(index, attempt)
        parked.until, parked.signals, parked.memo = park.until, park.signals, park.memo
        parked.ask = dict(park.ask) if park.ask else None
        parked.unverified = unverified
        run.parked[index] = parked
        if park.until is not None:

            def due() -> None:
                if run.parked.get(index) is parked and not run.ended:
                    self.wake(run, index, "time", "", None)

            parked.token = self._engine.timers.at(park.until, due)
        self.settle_state(run)

    def settle_state(self, run: LiveRun) -> None:
        """``waiting`` while some step waits and none is being worked on."""
        waits = bool(run.parked or run.families) and not run.running
        state = RunState.WAITING if waits else RunState.RUNNING
        if run.state != state and not run.ended:
            self._keeper.waiting += 1 if waits else -1
            run.state = state
            run.needs_update = run.row_written
            self._keeper.touch(run)

    def wake(self, run: LiveRun, index: int, kind: str, signal: str, value: Any) -> None:
        """Let a parked step go on."""
        parked = run.parked.pop(index, None)
        if parked is None:
            return
        if parked.token:
            self._engine.timers.cancel(parked.token)
        extra = {"kind": kind, "signal": signal}
        record = Record(trace.WOKEN, index, parked.attempt, self._keeper.since(run), 0, "", value, extra)
        value = self.record(run, record)
        self.settle_state(run)
        self.resume(run, index, parked.attempt, Wake(kind, signal, value, parked.memo))

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
        self.record(run, Record(trace.WOKEN, index, parked.attempt, at, 0, "", who, extra))
        self.settle_state(run)
        self.carry_out(run, index, parked.attempt, decision)

    def unverified(self, run: LiveRun, index: int, attempt: int) -> None:
        """A ``once`` step was cut off in the middle: do as its policy says."""
        policy = run.node(index).on_crash
        if policy != "ask":
            self.carry_out(run, index, attempt, policy)
            return
        self.record(run, Record(trace.UNVERIFIED, index, attempt, self._keeper.since(run), 0, "", None))
        self.park(run, index, attempt, Park(ask=ASK_UNVERIFIED), unverified=True)

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
        self.record(run, Record(trace.FAILED, index, attempt, flight.at, 0, "", error, None))
        self._engine.fail(run, error)

    def _spawn(self, flight: Flight, spawn: Spawn) -> None:
        run, index = flight.run, flight.index
        extra: dict[str, Any] = self._extra(flight) or {}
        extra["spawn"] = pack_spawn(spawn)
        took = self._took(flight)
        items = list(spawn.items)
        spawn = msgspec.structs.replace(spawn, items=items)
        self.record(run, Record(trace.SPAWNED, index, flight.attempt, flight.at, took, "", items, extra))
        self._after_step(flight)
        if not run.ended:
            self._engine.families.begin(run, index, spawn)
            self.settle_state(run)

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
            if parked.token:
                self._engine.timers.cancel(parked.token)
            if parked.away is not None:
                self._engine.placement.forget(parked.away)
        run.parked.clear()

    def record(self, run: LiveRun, record: Record) -> Any:
        value = self._keeper.record(run, record)
        if self._engine.live is not None:
            self._news(run, record.node, trace.KINDS[record.kind], record.attempt, record)
        return value

    def _news(self, run: LiveRun, index: int, what: str, attempt: int, record: Record | None = None) -> None:
        """A line for those who watch live; not for the journal."""
        if self._engine.live is None:
            return
        line: dict[str, Any] = {"node": run.plan.nodes[index].id, "kind": what, "attempt": attempt}
        if record is not None:
            line |= {"at": record.at, "took": record.took, "port": record.port}
        run.news.append(line)
        self._keeper.touch(run)


def describe(exc: BaseException, node: str) -> dict[str, Any]:
    """An error as it is kept: id, message, detail and node."""
    if isinstance(exc, FlowError):
        error: dict[str, Any] = {"id": exc.id, "message": exc.message[:MAX_ERROR], "node": node}
        if exc.detail is not None:
            error["detail"] = exc.detail
        return error
    return {"id": "node-failed", "message": f"{type(exc).__name__}: {exc}"[:MAX_ERROR], "node": node}


def backoff(base: float | str, longest: float | str, jitter: float, attempt: int, error: dict[str, Any]) -> float:
    """Seconds until attempt number ``attempt + 1``: base doubled each time, or what the other side asked for."""
    delay = min(seconds(base) * 2.0 ** min(attempt - 1, 60), seconds(longest))
    detail = error.get("detail")
    if isinstance(detail, dict) and isinstance(detail.get("retry_after"), int | float):
        delay = max(delay, min(float(detail["retry_after"]), seconds(longest)))
    return delay * (1.0 + jitter * random.random())
