"""Tells a device what to do: any entity of any driver.

`driver` and `config` name what the device hangs on, `entity` is the entity's id; `flowork device list` shows them, and
`flowork device show` what each takes. `value` is what it is set to (`true`, a number, `"open"`, `"press"`), `set` has
what else is wanted: brightness, position, temperature. The result is the driver's acknowledgement: of announced MQTT
devices `confirmed` says whether the device itself has told its new state. A command is not given twice unless
`repeatable` says that this does no harm (a lamp that is switched on twice is on).

    {"driver": "mqtt_device", "config": {"broker": "mqtt://127.0.0.1:1883"}, "repeatable": true,
     "entity": "light.0x0017880104e45553_light_zigbee2mqtt", "value": true, "set": {"brightness": 128}}
    {"driver": "sim", "config": {"name": "board"}, "entity": "lamp", "value": true}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import UNSET, Meta

from appliance.contracts import Agent, Config, ConfigError, Context, Effect, Node, Pending, Problem, World
from appliance.nodes._devices import Repeatable, command


class DeviceCommandConfig(Config, frozen=True, kw_only=True):
    driver: Annotated[str, Meta(title="Driver", description="What the device hangs on", min_length=1)]
    config: Annotated[dict[str, Any], Meta(title="Driver's settings", description="As the driver wants them")] = {}
    agent: Agent = ""
    entity: Annotated[str, Meta(title="Entity", description="Its id; empty for a driver with only one")] = ""
    value: Annotated[Any, Meta(title="Value", description="What it is set to")] = UNSET
    set: Annotated[
        dict[str, Any], Meta(title="Also set", description="What else is wanted: brightness, position, temperature")
    ] = {}
    repeatable: Repeatable = False


class DeviceCommand(Node[DeviceCommandConfig]):
    Config = DeviceCommandConfig
    title = "Command a device"
    category = "devices"
    icon = "plug"
    effect = Effect.ONCE
    inline = True

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        return Effect.IDEMPOTENT if config.get("repeatable") is True else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if "value" not in config and not config.get("set"):
            yield Problem("value", "say what the device has to do: a value, or something to set")
        fault = world.device_fault(config.get("agent", ""), config["driver"], config.get("config", {}))
        if fault:
            starts = {"there is no agent": "agent", "there is no driver": "driver"}
            yield Problem(next((place for start, place in starts.items() if fault.startswith(start)), "config"), fault)

    def run(self, ctx: Context, config: DeviceCommandConfig, payload: Any) -> Pending:
        wanted = dict(config.set)
        if config.entity:
            wanted["entity"] = config.entity
        if config.value is not UNSET:
            wanted["value"] = config.value
        if not wanted.keys() - {"entity"}:
            raise ConfigError("value: say what the device has to do: a value, or something to set")
        return command(ctx, config.agent, config.driver, config.config, wanted, config.repeatable)
