"""Devices as the API and the command line show them: with ids of their own, without the passwords in addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from appliance.contracts import DeviceState

_LOGIN = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*(?=@)")


class DeviceView(Struct, frozen=True, kw_only=True):
    """One entity of a driver that runs on an agent ("" is this machine).

    ``driver`` and ``config`` are what a flow names to reach it, ``entity`` is its id there. ``kind`` is binary, number,
    text, event or image; ``commands`` is the JSON Schema of a command, if it is ``writable``. ``value`` is what it
    last said, ``last`` which kind of event that was, ``time`` when (0: nothing yet). ``online`` says whether its
    driver runs at this moment and has not lost it.
    """

    id: str
    agent: str
    driver: str
    config: dict[str, Any]
    entity: str
    name: str
    kind: str
    unit: str
    writable: bool
    commands: dict[str, Any]
    value: Any
    last: str
    time: float
    online: bool


def device_id(agent: str, driver: str, config: Mapping[str, Any], entity: str) -> str:
    """The same for as long as it hangs on the same driver with the same settings."""
    name = msgspec.json.encode([agent, driver, config, entity], order="deterministic")
    return blake2b(name, digest_size=8).hexdigest()


def states(raw: Iterable[Mapping[str, Any]]) -> dict[str, DeviceState]:
    """The kernel's devices by their ids, in the order of agent, driver and entity."""
    found = sorted((msgspec.convert(each, DeviceState) for each in raw), key=_place)
    return {device_id(each.agent, each.driver, each.config, each.id): each for each in found}


def view(key: str, state: DeviceState) -> DeviceView:
    """A device for people."""
    return DeviceView(
        id=key,
        agent=state.agent,
        driver=state.driver,
        config=without_logins(state.config),
        entity=state.id,
        name=state.name,
        kind=state.kind,
        unit=state.unit,
        writable=state.writable,
        commands=state.commands,
        value=state.value,
        last=state.last,
        time=state.time,
        online=state.online,
    )


def command_to(state: DeviceState, also: Mapping[str, Any], value: Any = UNSET) -> dict[str, Any]:
    """What its driver is told; the entity is named where the driver has several."""
    wanted = dict(also)
    if "entity" in state.commands.get("properties", {}):
        wanted["entity"] = state.id
    if value is not UNSET:
        wanted["value"] = value
    return wanted


def without_logins(value: Any) -> Any:
    """The same without the passwords of addresses (``mqtt://me:•••@host``)."""
    if isinstance(value, Mapping):
        return {key: without_logins(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_logins(item) for item in value]
    return _LOGIN.sub(r"\1:•••", value) if isinstance(value, str) else value


def news(event: Mapping[str, Any]) -> dict[str, Any]:
    """A live event of devices or of an agent, in the API's words."""
    if event["type"] == "devices":
        values = [
            {
                "device": device_id(event["agent"], each["driver"], each["config"], each["id"]),
                "entity": each["id"],
                **{name: each[name] for name in ("driver", "value", "kind", "time")},
            }
            for each in event["values"]
        ]
        return {**event, "values": values}
    return {**event, "agent": without_logins(event["agent"])}


def _place(state: DeviceState) -> tuple[str, str, str, str]:
    return state.agent, state.driver, msgspec.json.encode(state.config, order="deterministic").decode(), state.id
