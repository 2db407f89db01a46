"""One attempt at a step: what is known of it while it is under way, and how its failure is told."""

from __future__ import annotations

import logging
import random
import time
from concurrent.futures import Future
from typing import Any

from appliance.contracts import FlowError, seconds
from appliance.kernel.context import StepContext
from appliance.kernel.runs import LiveRun

logger = logging.getLogger(__name__)

#: Seconds behind which the watchdog ends an attempt that has no timeout of its own.
DEFAULT_TIMEOUT = 3600.0
MAX_ERROR = 8_000


class Flight:
    """One attempt at a step that is under way."""

    __slots__ = (
        "at",
        "attempt",
        "ctx",
        "future",
        "index",
        "over",
        "payload",
        "rendered",
        "run",
        "started",
        "timer",
        "where",
    )

    def __init__(self, run: LiveRun, index: int, attempt: int, at: int) -> None:
        self.run = run
        self.index = index
        self.attempt = attempt
        self.at = at
        self.started = time.monotonic_ns()
        self.payload: Any = None
        self.rendered: dict[str, Any] | None = None
        self.ctx: StepContext | None = None
        self.future: Future[Any] | None = None
        self.timer = 0
        self.over = False
        #: The engine that did it, if it was another one: its name, and the run there.
        self.where: dict[str, Any] | None = None

    def took(self) -> int:
        """Microseconds so far."""
        return (time.monotonic_ns() - self.started) // 1000

    def extra(self) -> dict[str, Any] | None:
        """What is kept beside the output: the rendered config, what templates looked up, logs."""
        ctx = self.ctx
        if ctx is None or not (self.rendered or ctx.saw or ctx.logs or self.where):
            return None
        extra: dict[str, Any] = {}
        if self.where:
            extra["where"] = self.where
        if self.rendered:
            extra["config"] = self.rendered
        if ctx.saw:
            extra["saw"] = ctx.saw
        if ctx.logs:
            extra["logs"] = ctx.logs
        return extra

    def end_work(self) -> None:
        """Really end what the step is doing."""
        self.over = True
        if self.future is not None:
            self.future.cancel()
        if self.ctx is not None:
            try:
                self.ctx.cancel()
            except Exception:
                logger.exception("ending the work of %s failed", self.ctx.step)


def describe(exc: BaseException, node: str) -> dict[str, Any]:
    """An error as it is kept: id, message, detail and node."""
    if isinstance(exc, FlowError):
        error: dict[str, Any] = {"id": exc.id, "message": exc.message[:MAX_ERROR], "node": node}
        if exc.detail is not None:
            error["detail"] = exc.detail
        return error
    return {"id": "node-failed", "message": f"{type(exc).__name__}: {exc}"[:MAX_ERROR], "node": node}


def backoff(base: float | str, longest: float | str, jitter: float, attempt: int, error: dict[str, Any]) -> float:
    """Seconds until attempt number ``attempt + 1``: base doubled each time, or what the other side asked for."""
    delay = min(seconds(base) * 2.0 ** min(attempt - 1, 60), seconds(longest))
    detail = error.get("detail")
    if isinstance(detail, dict) and isinstance(detail.get("retry_after"), int | float):
        delay = max(delay, min(float(detail["retry_after"]), seconds(longest)))
    return delay * (1.0 + jitter * random.random())
