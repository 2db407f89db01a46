"""Starts a run when a paired engine sends an event, with its node "Send an event".

`topic` is a pattern of the form that MQTT has: `+` stands for one part between slashes, `#` at the end for all the
rest. `from` names the engines that count; none: all that may send events to this workspace. Each event starts one run,
and the sender keeps it until that run is on disk here. The payload is what was sent; `event.peer`, `event.topic`,
`event.sent` (Unix seconds) and `event.from_run` tell where it comes from, `event.missed` how many the sender had to
leave out before.

    {"topic": "door/+", "from": ["pi-door"]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta, field

from appliance.contracts import Config, Problem, Trigger, TriggerContext, World

_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class PeerEventConfig(Config, frozen=True, rename={"senders": "from"}):
    topic: Annotated[str, Meta(title="Topic", description="A pattern: door/+, sensors/#", min_length=1)] = "#"
    senders: Annotated[list[_Name], Meta(title="From", description="Names of paired engines; none: all")] = field(
        default_factory=list
    )


class PeerEvent(Trigger[PeerEventConfig]):
    Config = PeerEventConfig
    title = "Event of a peer"
    icon = "ear"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        topic = config.get("topic", "#")
        parts = topic.split("/")
        if "#" in parts[:-1] or any(len(part) > 1 and set(part) & {"#", "+"} for part in parts):
            yield Problem("topic", "`+` stands for a whole part between slashes, `#` only at the end")

    def attach(self, ctx: TriggerContext, config: PeerEventConfig) -> Callable[[], None]:
        senders = {name.casefold() for name in config.senders}

        def wants(peer: str, topic: str) -> bool:
            return (not senders or peer.casefold() in senders) and matches(config.topic, topic)

        stop = ctx.on_peer_event(wants)
        ctx.status(True, f"listening to {', '.join(config.senders) or 'all peers'}")
        return stop


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic fits a pattern; ``#`` also stands for nothing, as in MQTT."""
    wanted, given = pattern.split("/"), topic.split("/")
    for index, part in enumerate(wanted):
        if part == "#":
            return True
        if index >= len(given) or part not in ("+", given[index]):
            return False
    return len(wanted) == len(given)
