"""What triggers on devices have in common: whom they listen to, which events start runs, what a run is given.

Events are handed over in batches. Those that start runs are acknowledged once their run is on disk, all others at
once; the cursor goes with each run into the journal, so that nothing starts twice and nothing is left out, whichever
process dies in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from appliance.contracts import Committed, DeviceEvent, Event, TriggerContext


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

    ctx.status(None, f"waits for {f'the agent {agent}' if agent else 'this machine'}")
    return ctx.devices.watch(agent, driver, config, f"{ctx.flow}/{ctx.trigger}", take, ctx.status, ctx.cursor)


def _event(event: DeviceEvent) -> Event:
    meta = {"agent": event.agent, "driver": event.driver, "source": event.source, "kind": event.kind}
    payload = {**event.attrs, "value": event.value, "kind": event.kind, "source": event.source, "time": event.time}
    return Event(payload=payload, id=event.id, meta=meta, time=event.time, cursor=event.cursor)


def _once_committed(event: DeviceEvent) -> Committed:
    ack = event.ack
    return lambda _run: ack()
