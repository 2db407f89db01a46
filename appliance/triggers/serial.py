"""Starts a run for each message on a serial port.

`port` is the identity of a USB adapter (`0403:6001:A5069RR4`: vendor, product, serial number), which stays the same in
every socket, or a path (`/dev/ttyAMA0`). `framing` says where a message ends, `format` what it is; the run's
`payload.value` is the message: a text, the JSON, a row of CSV by the names of its columns. A port that is unplugged is
back within two seconds of being plugged in again; `gap` tells for how many seconds nothing was heard. Flows that read
or write one port need the same settings for it.

    {"port": "0403:6001:A5069RR4", "baud": 9600, "framing": "line", "format": "json"}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from appliance.contracts import (
    Agent,
    Config,
    Options,
    Problem,
    Trigger,
    TriggerContext,
    World,
    driver_faults,
    driver_settings,
)
from appliance.triggers._devices import listen

_NAMES = ("port", "baud", "framing", "format", "delimiter")


class SerialConfig(Config, frozen=True, kw_only=True):
    port: Annotated[str, Meta(title="Port", description="vendor:product:serial, or a path", min_length=1)]
    agent: Agent = ""
    baud: Annotated[
        Annotated[int, Meta(ge=50, le=4_000_000)] | UnsetType, Meta(title="Baud", description="Left out: 115200")
    ] = UNSET
    framing: Annotated[
        Literal["line", "delimiter", "length", "raw"] | UnsetType, Meta(description="Where a message ends")
    ] = UNSET
    delimiter: Annotated[str | UnsetType, Meta(description="What ends a message, with that framing")] = UNSET
    format: Annotated[
        Literal["text", "json", "csv", "hex", "modbus"] | UnsetType, Meta(description="What a message is")
    ] = UNSET
    events: Annotated[
        tuple[Literal["received", "garbage", "lost", "gap", "overflow"], ...], Meta(description="What starts a run")
    ] = ("received",)
    options: Options = {}


class Serial(Trigger[SerialConfig]):
    Config = SerialConfig
    title = "Serial message"
    icon = "usb"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        return driver_faults(config, "serial", _NAMES, world)

    def attach(self, ctx: TriggerContext, config: SerialConfig) -> Callable[[], None]:
        driver = driver_settings(config, *_NAMES)
        return listen(ctx, config.agent, "serial", driver, lambda event: event.kind in config.events)
