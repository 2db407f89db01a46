"""What triggers on devices have in common: whom they listen to, which events start runs, what a run is given.

Events are handed over in batches. Those that start runs are acknowledged once their run is on disk, all others at
once; the cursor goes with each run into the journal, so that nothing starts twice and nothing is left out, whichever
process dies in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from appliance.contracts import Committed, ConfigError, DeviceEvent, Event, Problem, TriggerContext, World

Agent = Annotated[
    str, Meta(title="Agent", description="The machine it hangs on, by the agent's name; empty: this one", max_length=40)
]
Options = Annotated[
    dict[str, Any], Meta(title="Further settings", description="Other settings of the driver, by their names")
]


def settings(config: Any, *names: str) -> dict[str, Any]:
    """The driver's config: those fields that were given, and ``options``. What is left out is as the driver has it."""
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not UNSET}
    if twice := sorted(given.keys() & config.options.keys()):
        raise ConfigError(f"options: {twice[0]} has a field of its own; leave it out here")
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(given | config.options))
    return found


def faults(raw: Mapping[str, Any], driver: str, names: tuple[str, ...], world: World) -> Iterable[Problem]:
    """What a driver or the list of agents has against a config as saved."""
    config = {name: raw[name] for name in names if name in raw} | dict(raw.get("options", {}))
    if fault := world.device_fault(raw.get("agent", ""), driver, config):
        yield Problem("agent" if fault.startswith("there is no agent") else "", fault)


def listen(
    ctx: TriggerContext,
    agent: str,
    driver: str,
    config: Mapping[str, Any],
    wanted: Callable[[DeviceEvent], bool],
) -> Callable[[], None]:
    """Start a run for each wanted event; returns the stop."""

    def take(events: list[DeviceEvent]) -> None:
        chosen = {event.seq: event for event in events if wanted(event)}
        if chosen:
            ctx.emit_many([(_event(event), _once_committed(event)) for event in chosen.values()])
        for event in events:
            if event.seq not in chosen:
                event.ack()

    ctx.status(False, f"waits for {f'the agent {agent}' if agent else 'this machine'}")
    return ctx.devices.watch(agent, driver, config, f"{ctx.flow}/{ctx.trigger}", take, ctx.status, ctx.cursor)


def _event(event: DeviceEvent) -> Event:
    meta = {"agent": event.agent, "driver": event.driver, "source": event.source, "kind": event.kind}
    payload = {**event.attrs, "value": event.value, "kind": event.kind, "source": event.source, "time": event.time}
    return Event(payload=payload, id=event.id, meta=meta, time=event.time, cursor=event.cursor)


def _once_committed(event: DeviceEvent) -> Committed:
    ack = event.ack
    return lambda _run: ack()
