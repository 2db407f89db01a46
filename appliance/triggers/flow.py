"""Starts a run when a run of another flow has ended.

`flow` is the id of a flow, a list of ids, or `*` for all but this one. `on` says which ends count: `succeeded`,
`failed`, `dead` (an event of which no run could be made) or `cancelled`. The payload is
`{"flow", "run", "state", "output", "error"}`. The start is stored together with the end it follows, so neither is
without the other after a crash. Flows that start each other stop after 16 rounds.

    {"flow": "*", "on": ["failed", "dead"]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from appliance.contracts import Busy, Config, Event, Problem, RunEnded, Trigger, TriggerContext, World

#: How many runs may start each other in a row.
DEEPEST = 16

End = Literal["succeeded", "failed", "dead", "cancelled"]

_Text = Annotated[str, Meta(min_length=1)]


class FlowConfig(Config, frozen=True):
    flow: Annotated[
        _Text | Annotated[list[_Text], Meta(min_length=1)],
        Meta(title="Flow", description="Id of a flow, a list of ids, or * for all others"),
    ] = "*"
    on: Annotated[list[End], Meta(title="On", description="Which ends of a run count", min_length=1)] = field(
        default_factory=lambda: ["succeeded"]
    )


class Flow(Trigger[FlowConfig]):
    Config = FlowConfig
    title = "Another flow"
    icon = "workflow"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        flow = config.get("flow", "*")
        for index, each in enumerate([flow] if isinstance(flow, str) else flow):
            if each != "*" and "{{" not in each and not world.flow_exists(each):
                yield Problem("flow" if isinstance(flow, str) else f"flow[{index}]", f"there is no flow {each!r}")

    def attach(self, ctx: TriggerContext, config: FlowConfig) -> Callable[[], None]:
        return ctx.on_run_ended(_Follower(ctx, config).ended)


class _Follower:
    def __init__(self, ctx: TriggerContext, config: FlowConfig) -> None:
        self._ctx = ctx
        self._flows = {config.flow} if isinstance(config.flow, str) else set(config.flow)
        self._states = set(config.on)

    def ended(self, run: RunEnded) -> None:
        if run.state not in self._states or run.flow == self._ctx.flow:
            return
        if "*" not in self._flows and run.flow not in self._flows:
            return
        depth = _depth(run) + 1
        if depth > DEEPEST:
            self._ctx.status(False, f"flows start each other in a circle: stopped after {DEEPEST} rounds")
            return
        ids = {"flow": run.flow, "run": run.run, "state": run.state}
        payload = {**ids, "output": run.output, "error": run.error}
        # The state belongs to the id: a dead run that is replayed ends once more.
        self._start(Event(payload=payload, id=f"{run.run}:{run.state}", unique=True, meta={**ids, "depth": depth}))

    def _start(self, event: Event) -> None:
        try:
            self._ctx.emit(event)
        except Busy as busy:
            self._ctx.call_at(self._ctx.now() + busy.retry_after, lambda: self._start(event))


def _depth(run: RunEnded) -> int:
    depth = run.meta.get("depth", 0)
    return depth if isinstance(depth, int) else 0
