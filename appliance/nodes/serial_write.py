"""Sends a message on a serial port, and waits for an answer if one is wanted.

`value` goes out in the port's `format` and `framing`: a text, or whatever the format can say; left out, the step's own
payload. `hex` sends bytes as they are instead. With `expect` the step waits up to `wait` for an answer: `true` takes
any, a text is a regular expression that the answer has to match; the result's `reply` is the answer. A message is not
sent twice unless `repeatable` says that this does no harm. Flows that use one port need the same settings for it.

    {"port": "0403:6001:A5069RR4", "baud": 9600, "value": "M105", "expect": "^ok", "wait": "2s"}
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
from appliance.nodes._devices import Repeatable, command

_NAMES = ("port", "baud", "framing", "format", "delimiter")


class SerialWriteConfig(Config, frozen=True, kw_only=True):
    port: Annotated[str, Meta(title="Port", description="vendor:product:serial, or a path", min_length=1)]
    value: Annotated[Any, Meta(title="Message", description="Left out: the step's own payload")] = UNSET
    hex: Annotated[str, Meta(title="Bytes", description="In hex, sent as they are instead of a message")] = ""
    expect: Annotated[
        bool | str, Meta(title="Expect", description="An answer to wait for: true for any, or a regular expression")
    ] = False
    wait: Annotated[Duration, Meta(title="Wait", description="How long for the answer")] = "5s"
    repeatable: Repeatable = False
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
    options: Options = {}


class SerialWrite(Node[SerialWriteConfig]):
    Config = SerialWriteConfig
    title = "Write to a serial port"
    category = "devices"
    icon = "usb"
    effect = Effect.ONCE
    inline = True

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        return Effect.IDEMPOTENT if config.get("repeatable") is True else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if config.get("hex") and "value" in config:
            yield Problem("hex", "give a message or bytes, not both")
        yield from driver_faults(config, "serial", _NAMES, world)

    def run(self, ctx: Context, config: SerialWriteConfig, payload: Any) -> Pending:
        if config.hex and config.value is not UNSET:
            raise ConfigError("hex: give a message or bytes, not both")
        wanted: dict[str, Any] = (
            {"hex": config.hex} if config.hex else {"value": payload if config.value is UNSET else config.value}
        )
        if config.expect:
            wanted |= {"expect": config.expect, "timeout": min(seconds(config.wait), 300.0)}
        return command(ctx, config.agent, "serial", driver_settings(config, *_NAMES), wanted, config.repeatable)
