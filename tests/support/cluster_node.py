"""Writes a line to a file that all machines of a test share: an effect that can be counted."""

from __future__ import annotations

import os
from typing import Any

from appliance.contracts import Config, Context, Effect, Node


class MarkConfig(Config, frozen=True):
    file: str
    text: str


class Mark(Node[MarkConfig]):
    Config = MarkConfig
    title = "Mark"
    category = "test"
    effect = Effect.ONCE

    def run(self, ctx: Context, config: MarkConfig, payload: Any) -> Any:
        file = os.open(config.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{config.text}\n".encode())
        finally:
            os.close(file)
        return payload
