"""Writes a line to a file that all machines of a test share: an effect that can be counted."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from appliance.contracts import Config, Context, Effect, Node


class MarkConfig(Config, frozen=True):
    file: str
    text: str
    #: A file for which it waits behind that; empty: for nothing.
    until: str = ""
    effect: Literal["pure", "idempotent", "once"] = "once"


class Mark(Node[MarkConfig]):
    Config = MarkConfig
    title = "Mark"
    category = "test"

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        return Effect(config.get("effect", "once"))

    def run(self, ctx: Context, config: MarkConfig, payload: Any) -> Any:
        file = os.open(config.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{config.text}\n".encode())
        finally:
            os.close(file)
        while config.until and not Path(config.until).exists():
            time.sleep(0.02)
        return payload
