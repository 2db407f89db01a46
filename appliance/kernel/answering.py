"""Answering a call from work on the IO loop: whoever hangs up has ended the work."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from appliance.kernel.server import Reply

Spawn = Callable[[Coroutine[Any, Any, Any]], Future[Any]]


def answer(reply: Reply, spawn: Spawn, work: Coroutine[Any, Any, Any]) -> None:
    """Answer with what the work gives, or with what it raises; end it when the caller goes away."""
    future = spawn(work)

    def gone() -> None:
        future.cancel()

    reply.caller.on_close.append(gone)

    def over(done: Future[Any]) -> None:
        if gone in reply.caller.on_close:
            reply.caller.on_close.remove(gone)
        if done.cancelled():
            return
        exc = done.exception()
        if exc is not None:
            reply.error(exc)
        else:
            reply.ok(done.result())

    future.add_done_callback(over)
