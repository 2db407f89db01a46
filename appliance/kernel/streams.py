"""A step's output as it is made, to those who watch live: gathered for a moment, bounded, and never kept.

An item is ``{"type": "stream", "run", "flow", "node", "attempt", "from", "text"}``: ``text`` stands behind the first
``from`` characters of what the step has shown so far. An item from 0 begins anew; one that begins behind what a
watcher has tells that something was left out for it. Secrets are hidden before anything is counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

#: Seconds for which pieces are gathered; the first one behind a pause is sent at once.
GATHER = 0.02
#: Characters of one item; of more that came at once only the end is shown.
LONGEST = 16_384


class Shown:
    """What one attempt at a step has shown."""

    __slots__ = ("at", "due", "sent", "waiting")

    def __init__(self) -> None:
        self.at = 0
        self.waiting = ""
        self.due = False
        self.sent = 0.0


class Showing(Protocol):
    """The attempt at a step that shows something."""

    attempt: int
    node: str
    #: What it has shown so far; kept with it by :class:`Streams`.
    shown: Shown | None

    @property
    def run(self) -> str: ...

    @property
    def flow(self) -> str: ...


class Streams:
    """Sends pieces on the IO loop. ``watched`` says whether anybody watches, ``clean`` hides secrets in a text."""

    def __init__(
        self,
        loop: Callable[[], asyncio.AbstractEventLoop],
        show: Callable[[dict[str, Any]], None],
        watched: Callable[[], bool],
        clean: Callable[[str], str],
        unfinished: Callable[[str], int],
    ) -> None:
        self._loop = loop
        self._show = show
        self._watched = watched
        self._clean = clean
        self._unfinished = unfinished
        self._lock = threading.Lock()

    def piece(self, ctx: Showing, text: str) -> None:
        """Show a piece. Safe from any thread."""
        with self._lock:
            shown = ctx.shown = ctx.shown or Shown()
            if not self._watched():
                shown.at += len(shown.waiting) + len(text)
                shown.waiting = ""
                return
            shown.waiting += text
            if shown.due:
                return
            shown.due = True
        self._loop().call_soon_threadsafe(self._soon, ctx, shown)

    def anew(self, ctx: Showing) -> None:
        """What this attempt has shown is void: the next piece stands at the beginning."""
        with self._lock:
            shown = ctx.shown
            if shown is None or not shown.at + len(shown.waiting):
                return
            shown.at, shown.waiting = 0, ""
        self._show(_item(ctx, 0, ""))

    def _soon(self, ctx: Showing, shown: Shown) -> None:
        wait = shown.sent + GATHER - time.monotonic()
        if wait <= 0:
            self._send(ctx, shown)
        else:
            self._loop().call_later(wait, self._send, ctx, shown)

    def _send(self, ctx: Showing, shown: Shown) -> None:
        with self._lock:
            shown.due = False
            shown.sent = time.monotonic()
            # What may be the beginning of a secret waits for its end.
            held = self._unfinished(shown.waiting)
            whole = len(shown.waiting) - held
            text, shown.waiting = self._clean(shown.waiting[:whole]), shown.waiting[whole:]
            start = shown.at + max(0, len(text) - LONGEST)
            shown.at += len(text)
        if text:
            self._show(_item(ctx, start, text[-LONGEST:]))


def _item(ctx: Showing, start: int, text: str) -> dict[str, Any]:
    return {
        "type": "stream",
        "run": ctx.run,
        "flow": ctx.flow,
        "node": ctx.node,
        "attempt": ctx.attempt,
        "from": start,
        "text": text,
    }
