"""Devices: the entities of all drivers that run, here and on other machines; what they last said, and commands."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from appliance.contracts import DeviceState
from appliance.gateway.answers import plain
from appliance.gateway.common import Body, PartOnly, Query
from appliance.gateway.device_views import DeviceView, command_to, states, view
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.errors import NotFound
from appliance.store.names import decode_cursor, encode_cursor
from appliance.store.records import Page

noun = Noun(
    "devices",
    "The entities of the drivers that run, on this machine and on edge agents: a driver runs as long as a live flow "
    "uses it. They belong to the engine, not to a workspace.",
)

DeviceId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", description="A device's id")]
_LONGEST = 60.0


class ListDevices(PartOnly, frozen=True):
    """Which of them."""

    agent: Annotated[
        Annotated[str, Meta(max_length=40)] | None, Meta(description="Only of this agent; empty: of this machine")
    ] = None
    driver: Annotated[str, Meta(max_length=60, description="Only of this driver")] = ""
    writable: Annotated[bool, Meta(description="Only what takes commands")] = False


class History(Struct, frozen=True):
    """The last hour of a number, oldest first: pairs of Unix seconds and value, at most one every 10 seconds."""

    unit: str
    points: list[tuple[float, float]]


class DeviceCommand(Body, frozen=True):
    """What it has to do."""

    value: Annotated[Any, Meta(description="What it is set to: true, a number, `press`")] = UNSET
    set: Annotated[dict[str, Any], Meta(description="What else: brightness, position, temperature")] = {}
    timeout: Annotated[float, Meta(gt=0, le=_LONGEST, description="Seconds to wait for the acknowledgement")] = 10.0


class LookFor(Body, frozen=True):
    """Which driver to run for a moment, where, and how."""

    driver: Annotated[str, Meta(min_length=1, max_length=60, description="The driver")]
    config: Annotated[dict[str, Any], Meta(description="Its settings, as a flow gives them; no templates")] = {}
    agent: Annotated[str, Meta(max_length=40, description="Where; empty: this machine")] = ""
    seconds: Annotated[float, Meta(gt=0, le=30, description="For how long")] = 5.0


class Seen(Struct, frozen=True):
    """What was there; ``ok`` and ``text`` say how the driver fared."""

    ok: bool
    text: str
    items: list[DeviceView]


class Done(Struct, frozen=True):
    """The driver's acknowledgement."""

    acknowledgement: Any


@noun.get("/devices", permission="devices:read", anywhere=True, errors=(422, 503))
def list_devices(call: Call[ListDevices, Nothing]) -> Page[DeviceView]:
    """What there is, by agent, driver and entity."""
    asked = call.query
    after = str(decode_cursor(asked.cursor, str)[0]) if asked.cursor else ""
    found = _states(call, asked.agent)
    keys = list(found)
    begin = keys.index(after) + 1 if after in found else 0
    wanted = [key for key in keys[begin:] if _fits(found[key], asked)]
    part = wanted[: asked.limit]
    following = encode_cursor(part[-1]) if len(wanted) > len(part) else ""
    return Page([view(key, found[key]) for key in part], following)


@noun.post("/devices/look", permission="devices:manage", errors=(422, 503), audit="device.look")
def look(call: Call[Query, LookFor]) -> Seen:
    """Run a driver for some seconds, though no flow uses it, and see what it finds: devices of a broker, a port."""
    asked = call.body
    call.note(asked.driver, agent=asked.agent)
    found = call.gateway.call(
        "device_look",
        asked.seconds + 10.0,
        agent=asked.agent,
        driver=asked.driver,
        config=asked.config,
        seconds=asked.seconds,
    )
    devices = states(found["devices"])
    return Seen(found["ok"], found["text"], [view(key, state) for key, state in devices.items()])


@noun.get("/devices/{device}", permission="devices:read", anywhere=True, errors=(404, 503), etag=True)
def show(call: Call[Query, Nothing], device: DeviceId) -> DeviceView:
    """One device."""
    return view(device, _find(call, device))


@noun.get("/devices/{device}/history", permission="devices:read", anywhere=True, errors=(404, 503))
def history(call: Call[Query, Nothing], device: DeviceId) -> History:
    """The last hour of a device that is a number; of any other there are no points."""
    state = _find(call, device)
    points = call.gateway.call(
        "device_history", agent=state.agent, driver=state.driver, config=state.config, source=state.id
    )
    return History(state.unit, [(time, value) for time, value in points])


@noun.post(
    "/devices/{device}/command",
    permission="devices:command",
    anywhere=True,
    errors=(404, 422, 502, 503, 504),
    audit="device.command",
    own_key=True,
)
def command(call: Call[Query, DeviceCommand], device: DeviceId) -> Done:
    """Have it do something; answered once its driver has acknowledged. The agent does what has one key once."""
    state = _find(call, device)
    call.note(state.id, agent=state.agent, driver=state.driver, name=state.name)
    answer = call.gateway.call(
        "device_command",
        call.body.timeout + 5.0,
        agent=state.agent,
        driver=state.driver,
        config=state.config,
        command=command_to(state, call.body.set, call.body.value),
        key=f"{call.identity.label} {call.key}" if call.key else "",
        within=call.body.timeout,
    )
    return Done(plain(answer))


def _states(call: Call[Any, Any], agent: str | None = None) -> dict[str, DeviceState]:
    return states(call.gateway.call("devices", agent=agent))


def _find(call: Call[Any, Any], device: str) -> DeviceState:
    found = _states(call).get(device)
    if found is None:
        raise NotFound(f"there is no device {device!r}; it may have gone, or its driver runs for no flow any more")
    return found


def _fits(state: DeviceState, asked: ListDevices) -> bool:
    return (not asked.driver or state.driver == asked.driver) and (state.writable or not asked.writable)
