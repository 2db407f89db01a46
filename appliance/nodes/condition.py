"""Go one way if something is true and another way if it is not.

`when` is an expression; the step leaves by port `true` or `false` with the payload as it came. With `for` it must
have been true for that long: the first event that makes it true starts the clock (durably, over restarts),
further true ones change nothing, and a false one stops it and leaves by `false`. `key` keeps several clocks
apart, for example one per topic.

    {"when": "payload.t > 30", "for": "2m", "key": "{{ event.topic }}"}
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from appliance.contracts import Config, Context, Duration, Expression, Node, Out, Park, Wake, seconds


class ConditionConfig(Config, frozen=True):
    when: Annotated[Expression, Meta(description="What must be true, for example `payload.t > 30`", min_length=1)]
    duration: Annotated[Duration | None, Meta(title="For", description="How long it must stay true")] = field(
        name="for", default=None
    )
    key: Annotated[str, Meta(description="Keeps clocks apart, for example `{{ event.topic }}`", max_length=400)] = ""


class Condition(Node[ConditionConfig]):
    Config = ConditionConfig
    title = "Condition"
    category = "logic"
    icon = "split"
    ports = ("true", "false")
    inline = True

    def run(self, ctx: Context, config: ConditionConfig, payload: Any) -> Any:
        holds = bool(ctx.eval(config.when))
        if config.duration is None:
            return Out(payload, "true" if holds else "false")
        slot = f"condition:{ctx.node}:{config.key}"
        pending = ctx.state.get(slot)
        if not holds:
            if pending is not None:
                ctx.state.delete(slot)
                ctx.signal(f"{slot}:{pending}")
            return Out(payload, "false")
        if pending is not None:
            return Out(payload, "")
        ctx.state.set(slot, ctx.run)
        until = ctx.now() + seconds(config.duration)
        return Park(until=until, signals=(f"{slot}:{ctx.run}",), memo=slot)

    def resume(self, ctx: Context, config: ConditionConfig, payload: Any, wake: Wake) -> Any:
        if wake.kind != "time":
            return Out(payload, "")
        ctx.state.delete(str(wake.memo))
        return Out(payload, "true")
