"""Let through at most so many in a time.

Counts durably per flow and `key`. What is over leaves by port `over` with the payload (unwired, it simply ends
there).

    {"count": 1, "per": "10m", "key": "{{ event.topic }}"}
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Node, Out, seconds


class ThrottleConfig(Config, frozen=True):
    count: Annotated[int, Meta(ge=1, le=1000, description="How many")] = 1
    per: Annotated[Duration, Meta(description="In how long")] = 60.0
    key: Annotated[str, Meta(description="Counts separately, for example `{{ event.topic }}`", max_length=400)] = ""


class Throttle(Node[ThrottleConfig]):
    Config = ThrottleConfig
    title = "Throttle"
    category = "time"
    icon = "gauge"
    ports = ("out", "over")
    inline = True

    def run(self, ctx: Context, config: ThrottleConfig, payload: Any) -> Any:
        slot = f"throttle:{ctx.node}:{config.key}"
        now, window = ctx.now(), seconds(config.per)
        # A moment in the future was written before the clock was set back; it must not block for ever.
        recent = [moment for moment in ctx.state.get(slot, []) if now - window < moment <= now]
        if len(recent) >= config.count:
            return Out(payload, "over")
        ctx.state.set(slot, [*recent, now])
        return payload
