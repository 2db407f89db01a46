"""Nodes that tests put beside the real ones: effects that are counted, work that hangs until it is ended."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from appliance.contracts import Config, Context, Effect, Node, NodeError, Pending


class ProbeConfig(Config, frozen=True):
    """No settings."""


class Counted(Node[ProbeConfig]):
    """Counts its effects by idempotency key; fails as often as told."""

    Config = ProbeConfig

    def __init__(self, effect: Effect) -> None:
        self.chosen = effect
        self.keys: list[str] = []
        self.failures = 0

    def effect_of(self, config: Any) -> Effect:
        return self.chosen

    async def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        self.keys.append(ctx.idempotency_key)
        if self.failures > 0:
            self.failures -= 1
            raise NodeError("told to fail")
        return payload


class Hanging(Node[ProbeConfig]):
    """Never ends by itself; notes when it is ended."""

    Config = ProbeConfig

    def __init__(self, effect: Effect = Effect.PURE) -> None:
        self.chosen = effect
        self.began = threading.Semaphore(0)
        self.ended = threading.Event()

    def effect_of(self, config: Any) -> Effect:
        return self.chosen

    async def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        self.began.release()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.ended.set()
            raise


class Blocking(Node[ProbeConfig]):
    """Blocks its thread until its abort is called."""

    Config = ProbeConfig

    def __init__(self) -> None:
        self.aborted = threading.Event()

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        ctx.on_cancel(self.aborted.set)
        self.aborted.wait(30)
        raise NodeError("aborted")


class Later(Node[ProbeConfig]):
    """Inline, with a result that comes when the test says so."""

    Config = ProbeConfig
    inline = True

    def __init__(self) -> None:
        self.pending: list[Pending] = []

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        self.pending.append(Pending())
        return self.pending[-1]


def probes() -> dict[str, Node[Any]]:
    """One of each, by type name."""
    return {
        "pure": Counted(Effect.PURE),
        "idempotent": Counted(Effect.IDEMPOTENT),
        "once": Counted(Effect.ONCE),
        "hanging": Hanging(),
        "hanging_once": Hanging(Effect.ONCE),
        "blocking": Blocking(),
        "later": Later(),
    }
