"""Starts a run when a pin changes.

`line` is the number of the pin on its chip (on a Raspberry Pi the BCM number) or its name (`GPIO17`). A button or a
contact between the pin and ground wants `bias: pull-up`, `active_low` and a `debounce` of about 20 ms. The run's
`payload.value` is `true` or `false`; `payload.time` is the kernel's own time of the edge. `initial` is the level when
the watch begins, `overflow` the number of edges that were left out of a pin that chatters. What happens while the
engine is off is kept by the agent and starts its runs later. A line that another flow uses differently is refused, and
says so in the trigger's status.

    {"line": 17, "bias": "pull-up", "active_low": true, "debounce": "20ms", "edge": "rising"}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from appliance.contracts import (
    Agent,
    Config,
    Duration,
    Options,
    Problem,
    Trigger,
    TriggerContext,
    World,
    driver_faults,
    driver_settings,
    seconds,
)
from appliance.triggers._devices import listen

_NAMES = ("line", "chip", "bias", "active_low", "edge")


class GpioConfig(Config, frozen=True, kw_only=True):
    line: Annotated[
        Annotated[int, Meta(ge=0)] | Annotated[str, Meta(min_length=1)],
        Meta(title="Line", description="Number (BCM) or name of the pin"),
    ]
    agent: Agent = ""
    chip: Annotated[str | UnsetType, Meta(title="Chip", description="Name or label; empty: the one with the pins")] = (
        UNSET
    )
    edge: Annotated[Literal["both", "rising", "falling"] | UnsetType, Meta(description="Which changes count")] = UNSET
    bias: Annotated[
        Literal["as-is", "pull-up", "pull-down", "disabled"] | UnsetType, Meta(description="Resistor in the chip")
    ] = UNSET
    active_low: Annotated[bool | UnsetType, Meta(title="Active low", description="0 V counts as true")] = UNSET
    debounce: Annotated[Duration | None, Meta(title="Debounce", description="How long a level must hold to count")] = (
        None
    )
    events: Annotated[
        tuple[Literal["changed", "initial", "overflow", "lost", "gap"], ...], Meta(description="What starts a run")
    ] = ("changed",)
    options: Options = {}


class Gpio(Trigger[GpioConfig]):
    Config = GpioConfig
    title = "Pin changes"
    icon = "cpu"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        more = dict(config.get("options", {}))
        if (debounce := config.get("debounce")) is not None and "{" not in str(debounce):
            more["debounce"] = seconds(debounce)
        return driver_faults({**config, "options": more}, "gpio", _NAMES, world)

    def attach(self, ctx: TriggerContext, config: GpioConfig) -> Callable[[], None]:
        driver = driver_settings(config, *_NAMES)
        if isinstance(config.line, str) and config.line.isdecimal():
            driver["line"] = int(config.line)  # what a template gives is a text
        if config.debounce is not None:
            driver["debounce"] = seconds(config.debounce)
        return listen(ctx, config.agent, "gpio", driver, lambda event: event.kind in config.events)
