"""Trying one node with data that a person chose: the node as it would run, with nothing of it kept.

No run is made and nothing is written; what the node would change in the flow's durable values is forgotten. A node
with an effect really has it, so who asks has to say that this is wanted. A node that would wait or start other runs
says so instead of doing it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Struct

from appliance.contracts import Effect, FlowError, Out, Park, Pending, Spawn, TimedOut
from appliance.engine.configs import ConfigPlan
from appliance.engine.flow import Flow, NodeSpec
from appliance.engine.plan import FlowPlan
from appliance.engine.validate import Catalog
from appliance.kernel.context import StepContext
from appliance.kernel.flights import describe
from appliance.kernel.runs import FlowSlot, LiveRun
from appliance.kernel.state import GONE
from appliance.kernel.wire import LONGEST_TRIAL

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine


#: Stands for the result of a node that was not run.
_HELD: Any = object()


class HasEffect(FlowError):
    """The node does something to the world, and nobody said that it may."""

    id = "has-effect"
    retryable = False


class Asked(Struct, kw_only=True):
    """The parameters of ``try``. ``effects``: the node may really have its effect; ``limit`` in seconds.

    ``hold``: instead of being refused, a node with an effect only tells its config (outcome ``held``).
    """

    flow: Annotated[int, Meta(ge=0, lt=1 << 62)]
    node: NodeSpec
    payload: Any = None
    event: dict[str, Any] = {}
    steps: dict[str, Any] = {}
    effects: bool = False
    hold: bool = False
    limit: float = 30.0


class _Context(StepContext):
    """A step's context in which the other steps' outputs are given."""

    __slots__ = ("given",)
    given: dict[str, Any]

    def scope(
        self, names: frozenset[str], payload: Any = UNSET, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """As for any step, but for ``steps``."""
        others = {"steps": self.given} if "steps" in names else {}
        value = self._payload if payload is UNSET else payload
        return super().scope(names, value, {**others, **(extra or {})})


class Trial:
    """One try. Begins and ends on the engine's thread."""

    def __init__(self, engine: Engine, asked: Asked, done: Callable[[dict[str, Any]], None]) -> None:
        self._engine = engine
        self._asked = asked
        self._done = done
        self._over = False
        self._began = 0
        self._timer = 0
        self._future: Future[Any] | None = None
        self._ctx: _Context | None = None
        self._rendered: dict[str, Any] = {}

    def begin(self, slot: FlowSlot, flow_plan: FlowPlan) -> None:
        """Run the node. Raises ``HasEffect``; what goes wrong in the node itself is an answer."""
        node = flow_plan.graphs[""].nodes[0]
        held = node.effect is not Effect.PURE and not self._asked.effects
        if held and not self._asked.hold:
            raise HasEffect(f"{node.spec.type!r} is {node.effect}: trying it really does what it does")
        # A number of its own, so that no two tries have the same idempotency key.
        number = self._engine.journal.ids.next(self._engine.services.wall())
        run = LiveRun(number, slot, 0, flow_plan, "")
        run.event = self._asked.event
        run.walk.overrides[0] = self._asked.payload
        ctx = self._ctx = _Context(self._engine.services, run, 0, 1, self._asked.payload, self._limit)
        ctx.given = self._asked.steps
        self._began = time.monotonic_ns()
        self._timer = self._engine.timers.after(self._limit, self._too_long)
        try:
            config = self._configured(ctx, node.config)
            self._take(_HELD if held else self._start(node.kind, ctx, config))
        except Exception as exc:
            self._settle(None, exc)

    @property
    def _limit(self) -> float:
        return min(max(self._asked.limit, 0.1), LONGEST_TRIAL)

    def _configured(self, ctx: _Context, plan: ConfigPlan) -> Any:
        if plan.constant is not None:
            return plan.constant
        values = plan.rendered(ctx.scope(plan.names))
        self._rendered = {name: values[name] for name in plan.dynamic}
        return plan.decode(values)

    def _start(self, kind: Any, ctx: _Context, config: Any) -> Any:
        if kind.inline or inspect.iscoroutinefunction(kind.run):
            return kind.run(ctx, config, self._asked.payload)
        return self._engine.steps.io.call(lambda: kind.run(ctx, config, self._asked.payload))

    def _take(self, result: Any) -> None:
        post = self._engine.post
        if isinstance(result, Pending):
            result.then(lambda value, error: post(lambda: self._settle(value, error)))
        elif isinstance(result, Future) or inspect.iscoroutine(result):
            future = result if isinstance(result, Future) else self._engine.steps.io.spawn(result)
            self._future = future
            future.add_done_callback(lambda landed: post(lambda: self._land(landed)))
        else:
            self._settle(result, None)

    def _land(self, future: Future[Any]) -> None:
        try:
            value = future.result()
        except asyncio.CancelledError:
            self._settle(None, FlowError("the work was cancelled"))
        except BaseException as exc:
            self._settle(None, exc)
        else:
            self._settle(value, None)

    def _too_long(self) -> None:
        if self._over:
            return
        if self._ctx is not None:
            self._ctx.cancel()
        if self._future is not None:
            self._future.cancel()
        self._settle(None, TimedOut(f"the node took longer than {self._limit:g} s and was ended"))

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self._over:
            return
        self._over = True
        self._engine.timers.cancel(self._timer)
        told = self._told(value, error)
        told["took"] = (time.monotonic_ns() - self._began) / 1e9
        self._done(self._engine.keeper.clean(told))

    def _told(self, value: Any, error: BaseException | None) -> dict[str, Any]:
        ctx = self._ctx
        told: dict[str, Any] = {"config": self._rendered}
        if ctx is not None:
            told |= {
                "saw": ctx.saw,
                "logs": ctx.logs,
                "state": {k: None if v is GONE else v for k, v in ctx.changes.items()},
            }
        if error is not None:
            return {**told, "outcome": "failed", "port": "error", "error": describe(error, self._asked.node.id)}
        if value is _HELD:
            return {**told, "outcome": "held"}
        if isinstance(value, Park):
            return {**told, "outcome": "waits", "until": value.until, "ask": dict(value.ask or {})}
        if isinstance(value, Spawn):
            return {**told, "outcome": "starts", "items": len(value.items)}
        out = value if isinstance(value, Out) else Out(value)
        return {**told, "outcome": "done", "port": out.port, "output": out.value}


def trial_plan(spec: NodeSpec, catalog: Catalog) -> FlowPlan:
    """The plan of this node alone. Raises ``KeyError`` for a kind that there is not."""
    return FlowPlan(Flow(name="trial", nodes=[spec]), catalog)
