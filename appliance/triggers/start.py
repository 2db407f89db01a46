"""Starts a run when the engine comes up: after a boot, an update, or a power cut.

It fires once for each start of the engine, `delay` after it, and not when a flow is deployed into an engine that
already runs. The payload is `{"started": "2026-11-21T07:00:00+00:00"}`.

    {"delay": "10s"}
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from appliance.contracts import Busy, Config, Duration, Event, Trigger, TriggerContext, seconds

#: Names this life of the engine: the module is loaded once in each.
_LIFE = uuid.uuid4().hex


class StartConfig(Config, frozen=True):
    delay: Annotated[Duration, Meta(title="Delay", description="How long after the start")] = 0.0


class Start(Trigger[StartConfig]):
    Config = StartConfig
    title = "Engine start"
    icon = "power"

    def attach(self, ctx: TriggerContext, config: StartConfig) -> Callable[[], None]:
        if not ctx.starting:
            ctx.status(True, "waits for the next start of the engine")
            return _nothing
        return _Starter(ctx).after(seconds(config.delay))


class _Starter:
    def __init__(self, ctx: TriggerContext) -> None:
        self._ctx = ctx
        self._cancel: Callable[[], None] = _nothing
        began = ctx.now()
        started = datetime.fromtimestamp(began, UTC).isoformat()
        self._event = Event(payload={"started": started}, id=f"start:{_LIFE}", unique=True)

    def after(self, delay: float) -> Callable[[], None]:
        if delay:
            self._cancel = self._ctx.call_at(self._ctx.now() + delay, self._fire)
        else:
            self._fire()
        return lambda: self._cancel()

    def _fire(self) -> None:
        try:
            self._ctx.emit(self._event)
        except Busy as busy:
            self._cancel = self._ctx.call_at(self._ctx.now() + busy.retry_after, self._fire)


def _nothing() -> None:
    """Nothing to cancel."""
