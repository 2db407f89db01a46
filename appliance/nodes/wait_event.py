"""Wait until something happens, or until it is too late.

Either a named event (`name`; sent by `POST /api/v1/events` or `flowork event`), or one from a trigger of this flow
(`trigger`: its id; give that trigger `"starts_runs": false` if its events are only to be waited for). `when` says
which of them counts; in it, `payload` is the event's payload and `waiting` what this step works on.
Leaves by `out` with the event's payload, or by `timeout` with its own.

    {"trigger": "door", "when": "payload.open", "timeout": "1h"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Expression, Node, Out, Park, Problem, Wake, World, seconds


class WaitEventConfig(Config, frozen=True):
    name: Annotated[str, Meta(description="The event's name, for example `order-{{ payload.id }}`")] = ""
    trigger: Annotated[str, Meta(description="Or the id of a trigger of this flow")] = ""
    when: Annotated[Expression | None, Meta(description="Which events count")] = None
    timeout: Annotated[Duration | None, Meta(description="How long to wait; for ever if left out")] = None


class WaitEvent(Node[WaitEventConfig]):
    Config = WaitEventConfig
    title = "Wait for an event"
    category = "time"
    icon = "ear"
    ports = ("out", "timeout")
    inline = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if bool(config.get("name")) == bool(config.get("trigger")):
            yield Problem("name", "give either `name` (of an event) or `trigger` (an id in this flow)")

    def run(self, ctx: Context, config: WaitEventConfig, payload: Any) -> Any:
        until = None if config.timeout is None else ctx.now() + seconds(config.timeout)
        return self._wait(config, until)

    def resume(self, ctx: Context, config: WaitEventConfig, payload: Any, wake: Wake) -> Any:
        if wake.kind == "time":
            return Out(payload, "timeout")
        event = wake.value if isinstance(wake.value, dict) else {"payload": wake.value}
        heard = event.get("payload")
        if config.when and not ctx.eval(config.when, heard, waiting=payload, event=event.get("meta", {})):
            return self._wait(config, wake.memo)
        return heard

    def _wait(self, config: WaitEventConfig, until: float | None) -> Park:
        signal = f"event:{config.name}" if config.name else f"trigger:{config.trigger}"
        return Park(until=until, signals=(signal,), memo=until)
