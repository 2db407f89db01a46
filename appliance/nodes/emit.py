"""Send an event to other engines, whose flows listen with the trigger "Event of a peer".

`to` names paired engines, or `others` for all of them. The event lies in the outbox from the moment the step is done,
and goes to each engine once, also if that is away for days; the step does not wait for it. The outbox holds 20,000
events, 16 MB, for 7 days; what had to be left out is told to the receiver with the next one (`event.missed`).

    {"topic": "door/opened", "payload": {"door": "{{ payload.name }}"}, "to": ["laptop"]}
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from appliance.contracts import Config, Context, Effect, Node

_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class EmitConfig(Config, frozen=True):
    topic: Annotated[
        str, Meta(title="Topic", description="What it is about, as in door/opened", min_length=1, max_length=500)
    ]
    payload: Annotated[Any, Meta(title="Payload", description="What is sent; what came in, if left out")] = None
    to: Annotated[
        list[_Name], Meta(title="To", description="Names of paired engines; others: all of them", min_length=1)
    ] = field(default_factory=lambda: ["others"])


class Emit(Node[EmitConfig]):
    Config = EmitConfig
    title = "Send an event"
    category = "network"
    icon = "antenna"
    # It lies in the outbox in the very commit that ends the step, so a crash neither loses nor doubles it.
    effect = Effect.PURE

    async def run(self, ctx: Context, config: EmitConfig, payload: Any) -> Any:
        sent = ctx.engines.emit(config.topic, payload if config.payload is None else config.payload, config.to)
        ctx.log(f"{config.topic} to {', '.join(sent) or 'nobody'}")
        return payload
