"""Sets a pin, or gives a pulse on it.

`line` is the number of the pin on its chip (on a Raspberry Pi the BCM number) or its name (`GPIO27`). `value` is `true`
or `false`; with `active_low` the pin is at 0 V for `true`. With `pulse` it goes back after that time (60 s at most).
`safe` is the value that the agent sets when it ends, or has lost the engine for too long: give it for whatever must not
stay on. Setting a pin may be repeated after a crash; a pulse is not, unless the flow says so. Flows that set one pin
need the same settings for it. The result is `{"value": true}`.

    {"line": 27, "value": true, "safe": false}
    {"line": "GPIO27", "value": true, "pulse": "500ms", "agent": "shed"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from appliance.contracts import (
    Agent,
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    Node,
    Options,
    Pending,
    Problem,
    World,
    driver_faults,
    driver_settings,
    seconds,
)
from appliance.nodes._devices import command

_NAMES = ("line", "chip", "active_low", "drive", "initial", "safe")
_LONGEST_PULSE = 60.0


class GpioWriteConfig(Config, frozen=True, kw_only=True):
    line: Annotated[
        Annotated[int, Meta(ge=0)] | Annotated[str, Meta(min_length=1)],
        Meta(title="Line", description="Number (BCM) or name of the pin"),
    ]
    value: Annotated[bool, Meta(title="Value", description="On or off")]
    agent: Agent = ""
    pulse: Annotated[Duration | None, Meta(title="Pulse", description="Back to the level before after this time")] = (
        None
    )
    chip: Annotated[str | UnsetType, Meta(title="Chip", description="Name or label; empty: the one with the pins")] = (
        UNSET
    )
    active_low: Annotated[bool | UnsetType, Meta(title="Active low", description="true is 0 V")] = UNSET
    drive: Annotated[
        Literal["push-pull", "open-drain", "open-source"] | UnsetType, Meta(description="How the pin is driven")
    ] = UNSET
    initial: Annotated[
        bool | UnsetType, Meta(title="Initial value", description="Until something is set for the first time")
    ] = UNSET
    safe: Annotated[
        bool | UnsetType, Meta(title="Safe value", description="When the agent ends or has lost the engine")
    ] = UNSET
    options: Options = {}


class GpioWrite(Node[GpioWriteConfig]):
    Config = GpioWriteConfig
    title = "Set a pin"
    category = "devices"
    icon = "cpu"
    effect = Effect.IDEMPOTENT
    inline = True

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        return Effect.ONCE if config.get("pulse") is not None else Effect.IDEMPOTENT

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        return driver_faults(
            {**config, "options": {"direction": "output"} | config.get("options", {})}, "gpio", _NAMES, world
        )

    def run(self, ctx: Context, config: GpioWriteConfig, payload: Any) -> Pending:
        wanted: dict[str, Any] = {"value": config.value}
        if config.pulse is not None:
            wanted["pulse"] = seconds(config.pulse)
            if not 0 < wanted["pulse"] <= _LONGEST_PULSE:
                raise ConfigError(f"pulse: is more than 0 and at most {_LONGEST_PULSE:g} s; use a delay for longer")
        driver = {"direction": "output"} | driver_settings(config, *_NAMES)
        if isinstance(config.line, str) and config.line.isdecimal():
            driver["line"] = int(config.line)  # what a template gives is a text
        return command(ctx, config.agent, "gpio", driver, wanted, repeatable=config.pulse is None)
