"""Requests from one kernel of a cluster to another, over the cluster's bus: an answer, items ahead of it, an early end.

The bus may lose a message, and a kernel may die. Whoever asks says once a second what it still waits for; what the
other one knows nothing of was lost, and fails like a request over a link that broke: it may have been carried out.
Messages are lists that begin with :data:`NAME`; see :meth:`Between.take`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from appliance.contracts import Busy, ConfigError, FlowError, PeerAway, PeerFailed, PeerNotAllowed, TimedOut
from appliance.kernel.far import Send
from appliance.kernel.submission import Elsewhere

logger = logging.getLogger(__name__)

NAME = "between"
#: Seconds behind a request's end for the answer to arrive; the age from which it is asked after.
_GRACE, _SURE = 3.0, 1.0


class KernelGone(PeerAway):
    """The kernel that was asked has ended, or the bus has lost the request or its answer."""


class Asking:
    """A request of ours."""

    def __init__(self, box: str, number: int, until: float, on_item: Callable[[Any], None] | None) -> None:
        self.box = box
        self.number = number
        self.until = until
        self.since = time.monotonic()
        self.on_item = on_item
        self.future: Future[Any] = Future()

    def fail(self, exc: BaseException) -> None:
        """It will not be answered."""
        with suppress(InvalidStateError):
            self.future.set_exception(exc)

    def give(self, value: Any) -> None:
        """It was answered."""
        with suppress(InvalidStateError):
            self.future.set_result(value)


class Asked:
    """A request of another kernel (or of this one). Safe from any thread; the first answer counts."""

    def __init__(self, body: Any, until: float, say: Callable[[str, Any], None]) -> None:
        self.body = body
        self.until = until
        self._say = say
        self._lock = threading.Lock()
        self._on_end: list[Callable[[str], None]] = []
        self._over = ""

    def item(self, value: Any) -> None:
        """One item ahead of the answer."""
        if not self._over:
            self._say("item", value)

    def answer(self, value: Any = None) -> None:
        """Answer."""
        self._last("answer", value)

    def error(self, exc: BaseException) -> None:
        """Answer with what went wrong."""
        self._last("failed", _told(exc))

    def _last(self, kind: str, value: Any) -> None:
        with self._lock:
            if self._over:
                return
            self._over = "answered"
            self._on_end.clear()
        self._say(kind, value)

    def on_end(self, callback: Callable[[str], None]) -> None:
        """As :meth:`appliance.contracts.PeerRequest.on_end`."""
        with self._lock:
            if self._over == "answered":
                return
            if not self._over:
                self._on_end.append(callback)
                return
        callback(self._over)

    def end(self, why: str) -> None:
        """Nobody waits for the answer any more."""
        with self._lock:
            if self._over:
                return
            self._over = why
            callbacks, self._on_end = self._on_end, []
        for callback in callbacks:
            try:
                callback(why)
            except Exception:
                logger.exception("ending what another kernel has asked failed")


class Between:
    """See above. Safe from any thread; what is served is called on the thread of the bus and must not block."""

    def __init__(self, send: Send, box: str) -> None:
        self._send = send
        self.box = box
        self.name = NAME
        self.served: dict[str, Callable[[Asked], None]] = {}
        #: What is said without a question: takes the sender's box and what it says.
        self.heard: dict[str, Callable[[str, Any], None]] = {}
        self._numbers = itertools.count(1)
        self._asking: dict[int, Asking] = {}
        self._asked: dict[tuple[str, int], Asked] = {}
        self._lock = threading.Lock()

    # --- asking ----------------------------------------------------------------------------------------

    def ask(
        self, box: str, what: str, body: Any, timeout: float, on_item: Callable[[Any], None] | None = None
    ) -> Asking:
        """Ask a kernel. Fails with ``KernelGone``, ``TimedOut``, or what the other one says."""
        asking = Asking(box, next(self._numbers), time.monotonic() + timeout, on_item)
        with self._lock:
            self._asking[asking.number] = asking
        asking.future.add_done_callback(lambda done: self._settled(asking, done))
        if box == self.box:
            self._serve(box, asking.number, what, body, timeout)
            return asking
        part = [NAME, "ask", self.box, asking.number, what, body, timeout]
        try:
            self._send(box, part, lambda exc: asking.fail(KernelGone(exc.message)))
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            asking.fail(ConfigError(f"this cannot be sent to another kernel: {exc}"))
        return asking

    def end(self, asking: Asking, why: str) -> None:
        """Wait no more; ``why`` as in :meth:`appliance.contracts.PeerRequest.on_end`."""
        with self._lock:
            there = self._asking.pop(asking.number, None)
        if there is None:
            return
        if asking.box == self.box:
            self._end(asking.box, asking.number, why)
        else:
            self._send(asking.box, [NAME, "end", self.box, asking.number, why], None)
        asking.future.cancel()

    def tell(self, box: str, what: str, value: Any) -> None:
        """Say something to a kernel; it may be lost."""
        self._send(box, [NAME, "tell", self.box, what, value], None)

    def _settled(self, asking: Asking, done: Future[Any]) -> None:
        if done.cancelled():
            self.end(asking, "cancelled")
        else:
            with self._lock:
                self._asking.pop(asking.number, None)

    # --- the bus ---------------------------------------------------------------------------------------

    def take(self, part: list[Any]) -> None:
        """One message, on the thread of the bus."""
        match part[1:]:
            case ["ask", str(box), int(number), str(what), body, int() | float() as left]:
                self._serve(box, number, what, body, left)
            case ["item" | "answer" | "failed" as kind, int(number), value]:
                self._came(number, kind, value)
            case ["end", str(box), int(number), str(why)]:
                self._end(box, number, why)
            case ["mine", str(box), list(numbers)]:
                with self._lock:
                    lost = [number for number in numbers if (box, number) not in self._asked]
                if lost:
                    self._send(box, [NAME, "lost", lost], None)
            case ["lost", list(numbers)]:
                self._lost([found for number in numbers if (found := self._asking.get(number)) is not None])
            case ["tell", str(box), str(what), value] if what in self.heard:
                self.heard[what](box, value)
            case _:
                logger.warning("a message between kernels means nothing here: %.100r", part)

    def _serve(self, box: str, number: int, what: str, body: Any, left: float) -> None:
        key = (box, number)

        def say(kind: str, value: Any) -> None:
            if kind != "item":
                with self._lock:
                    self._asked.pop(key, None)
            if box == self.box:
                self._came(number, kind, value)
                return
            try:
                self._send(box, [NAME, kind, number, value], None)
            except (TypeError, ValueError, OverflowError, RecursionError) as exc:
                self._send(box, [NAME, "failed", number, _told(ConfigError(f"it cannot be sent: {exc}"))], None)

        asked = Asked(body, time.monotonic() + left, say)
        with self._lock:
            self._asked[key] = asked
        handler = self.served.get(what)
        if handler is None:
            asked.error(Elsewhere("this kernel is not that far yet"))
            return
        try:
            handler(asked)
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("what another kernel has asked failed")
            asked.error(exc)

    def _came(self, number: int, kind: str, value: Any) -> None:
        asking = self._asking.get(number)
        if asking is None:
            return
        if kind == "answer":
            asking.give(value)
        elif kind == "failed":
            asking.fail(_error(value))
        elif asking.on_item is not None:
            try:
                asking.on_item(value)
            except Exception as exc:
                if not isinstance(exc, FlowError):
                    logger.exception("an item of another kernel could not be taken")

    def _end(self, box: str, number: int, why: str) -> None:
        with self._lock:
            asked = self._asked.pop((box, number), None)
        if asked is not None:
            asked.end(why)

    def _lost(self, lost: list[Asking]) -> None:
        for asking in lost:
            asking.fail(KernelGone("the other kernel is gone, or the bus has lost this", sent=True))

    # --- now and then ----------------------------------------------------------------------------------

    def look(self, alive: Collection[str]) -> None:
        """Once a second, with the boxes of all that live: what waits for the dead waits in vain."""
        now = time.monotonic()
        with self._lock:
            asking, asked = list(self._asking.values()), list(self._asked.items())
        self._lost([each for each in asking if each.box != self.box and each.box not in alive])
        waiting: dict[str, list[int]] = {}
        for each in asking:
            if now > each.until + _GRACE:
                each.fail(TimedOut("another kernel has not answered in time"))
            elif each.box in alive and each.box != self.box and now - each.since > _SURE:
                waiting.setdefault(each.box, []).append(each.number)
        for box, numbers in waiting.items():
            self._send(box, [NAME, "mine", self.box, numbers], None)
        for (box, number), one in asked:
            if box != self.box and box not in alive:
                self._end(box, number, "away")
            elif now > one.until:
                self._end(box, number, "late")

    def close(self) -> None:
        """Nothing is waited for any more. Twice is fine."""
        with self._lock:
            asking = list(self._asking.values())
        for each in asking:
            each.fail(KernelGone("this kernel is stopping", sent=True))


def _told(exc: BaseException) -> dict[str, Any]:
    """An error for the bus."""
    if not isinstance(exc, FlowError):
        return {"id": "internal", "text": f"{type(exc).__name__}: {exc}"[:2000], "retryable": True}
    told: dict[str, Any] = {"id": exc.id, "text": exc.message, "retryable": exc.retryable, "detail": exc.detail}
    if isinstance(exc, PeerFailed):
        told["error_id"] = exc.error_id
    if isinstance(exc, PeerAway):
        told["sent"] = exc.sent
    if isinstance(exc, Busy):
        told["retry_after"] = exc.retry_after
    return told


def _error(told: dict[str, Any]) -> FlowError:
    """What :func:`_told` was given, as far as anybody asks what it was."""
    kind, text = told["id"], told["text"]
    if kind == PeerAway.id:
        return PeerAway(text, sent=bool(told.get("sent")))
    if kind == Busy.id:
        return Busy(text, retry_after=float(told.get("retry_after", 1.0)))
    for known in (PeerNotAllowed, TimedOut, ConfigError, Elsewhere):
        if kind == known.id:
            return known(text)
    return PeerFailed(
        text,
        error_id=str(told.get("error_id", kind)),
        retryable=bool(told.get("retryable", True)),
        detail=told.get("detail"),
    )
