"""Starts a run when a device says something: any entity of any driver.

`driver` and `config` name what the device hangs on, as `flowork device list` shows them: `mqtt_device` finds all that
announces itself to Home Assistant (Zigbee2MQTT, ESPHome, Tasmota), `sim` is simulated hardware to try things with.
`entity` is the id of the entity, or a pattern (`sensor.*_temperature*`); empty means all. `events` says what starts a
run: of `mqtt_device` there are `changed`, `event` (a button's press), `state` (what was known at the start), `lost`
and `back`; other drivers have others. With `to` only that value starts one. The run's `payload` has `value`, `source`
(the entity's id), `kind`, `time` and what else the device told. Flows with an equal `driver` and `config` share one
connection.

    {"driver": "mqtt_device", "config": {"broker": "mqtt://127.0.0.1:1883"},
     "entity": "binary_sensor.0x00158d00025ae0a1_contact_zigbee2mqtt", "to": true}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from msgspec import UNSET, Meta

from appliance.contracts import Agent, Config, DeviceEvent, Problem, Trigger, TriggerContext, World
from appliance.triggers._devices import listen


class DeviceConfig(Config, frozen=True, kw_only=True):
    driver: Annotated[str, Meta(title="Driver", description="What the device hangs on", min_length=1)]
    config: Annotated[dict[str, Any], Meta(title="Driver's settings", description="As the driver wants them")] = {}
    agent: Agent = ""
    entity: Annotated[str, Meta(title="Entity", description="Its id or a pattern; empty: all", max_length=300)] = ""
    events: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(title="Events", description="What starts a run; empty: all"),
    ] = ("changed", "event", "pressed")
    to: Annotated[Any, Meta(title="To", description="Left out: any value")] = UNSET


class Device(Trigger[DeviceConfig]):
    Config = DeviceConfig
    title = "Device"
    icon = "plug"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        fault = world.device_fault(config.get("agent", ""), config["driver"], config.get("config", {}))
        if fault:
            yield Problem(_place(fault), fault)

    def attach(self, ctx: TriggerContext, config: DeviceConfig) -> Callable[[], None]:
        def wanted(event: DeviceEvent) -> bool:
            return (
                (not config.events or event.kind in config.events)
                and (not config.entity or fnmatchcase(event.source, config.entity))
                and (config.to is UNSET or _same(config.to, event.value))
            )

        return listen(ctx, config.agent, config.driver, config.config, wanted)


def _place(fault: str) -> str:
    starts = {"there is no agent": "agent", "there is no driver": "driver"}
    return next((place for start, place in starts.items() if fault.startswith(start)), "config")


def _same(one: Any, other: Any) -> bool:
    """Equal, where a switch that is on is not the number 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
