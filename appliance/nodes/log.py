"""Writes a line into the run's log and passes the payload on unchanged.

With no message, the payload itself is written, as JSON.

    {"message": "{{ payload.name }} is at {{ payload.t }} °C", "level": "warning"}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.contracts import Config, Context, Node

_LONGEST = 10_000


class LogConfig(Config, frozen=True):
    message: Annotated[str, Meta(title="Message", description="Left empty: the payload as JSON.")] = ""
    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(title="Level")] = "info"


class Log(Node[LogConfig]):
    Config = LogConfig
    title = "Log"
    category = "logic"
    icon = "list"
    inline = True

    def run(self, ctx: Context, config: LogConfig, payload: Any) -> Any:
        text = config.message or msgspec.json.encode(payload).decode()
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}… ({len(text)} characters)"
        ctx.log(text, config.level)
        return payload
