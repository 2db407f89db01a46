"""The kernel's end of a cluster's bus: what it does for gateways on other machines, as :mod:`server` does on this one.

A message is a list. To a kernel: ``["call", box, number, expires, request]`` (``expires`` on the service's clock, the
request as on the socket), ``["end", box, number]`` when the caller waits no more, ``["note", name]`` that nobody
answers. From a kernel: ``["answer", frame]`` with what would go over the socket.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from appliance.contracts import FlowError
from appliance.kernel import wire
from appliance.kernel.server import Server
from appliance.sharing.members import VISITOR
from appliance.sharing.service import Service

logger = logging.getLogger(__name__)

#: See :meth:`appliance.sharing.post.Post.send`.
Send = Callable[[str, Any, Callable[[FlowError], None] | None], None]
#: Seconds for which a visitor, of whom nobody knows whether it lives, is answered.
_VISIT = 3600.0
CALL, END, NOTE, ANSWER = "call", "end", "note", "answer"


class FarCaller:
    """Somebody who asked over the bus."""

    def __init__(self, send: Send, box: str, gone: Callable[[], None], over: Callable[[], object]) -> None:
        """``gone`` is called when the box takes no more, ``over`` when the one request was answered."""
        self.on_close: list[Callable[[], None]] = []
        self._send = send
        self._box = box
        self._gone = gone
        self._over = over
        self._since = time.monotonic()
        self.closed = False

    def may_have_gone(self) -> bool:
        """Whether somebody whose box is not known to belong to a living process may be forgotten."""
        return not self._box.startswith(VISITOR) or time.monotonic() - self._since > _VISIT

    def send(self, data: bytes) -> None:
        """Send a frame; one who does not empty its box is forgotten."""
        if not self.closed:
            self._send(self._box, [ANSWER, data[4:]], lambda exc: self._gone())

    def answered(self) -> None:
        """There was one request only."""
        self._over()

    def close(self) -> None:
        """Nothing more is sent; whoever works for this caller is told. Twice is fine."""
        if self.closed:
            return
        self.closed = True
        for callback in list(self.on_close):
            try:
                callback()
            except Exception:
                logger.exception("something to do behind a caller failed")


class FarDoor:
    """Takes what comes into the kernel's box."""

    def __init__(self, service: Service, server: Server, notes: dict[str, Callable[[], None]]) -> None:
        self._service = service
        self._server = server
        self._notes = notes
        self._send: Send | None = None
        self._callers: dict[tuple[str, int], FarCaller] = {}
        self._lock = threading.Lock()

    def open(self, send: Send) -> None:
        """Answers go out by this."""
        self._send = send

    def take(self, part: Any) -> None:
        """One part of a message."""
        match part:
            case ["call", str(box), int(number), int() | float() as expires, bytes(request)]:
                self._call(box, number, expires, request)
            case ["end", str(box), int(number)]:
                self._close((box, number))
            case ["note", str(name)] if name in self._notes:
                self._notes[name]()
            case _:
                logger.warning("a message on the bus means nothing here: %.100r", part)

    def _call(self, box: str, number: int, expires: float, request: bytes) -> None:
        assert self._send is not None
        if self._service.clock() > expires:
            return  # nobody waits for the answer any more
        key = (box, number)
        caller = FarCaller(self._send, box, partial(self._close, key), partial(self._forget, key))
        with self._lock:
            self._callers[key] = caller
        try:
            message = wire.decode(request)
            self._server.dispatch(caller, message)
        except wire.WireError as exc:
            logger.warning("a request on the bus cannot be read: %s", exc)
            self._close(key)

    def _forget(self, key: tuple[str, int]) -> FarCaller | None:
        with self._lock:
            return self._callers.pop(key, None)

    def _close(self, key: tuple[str, int]) -> None:
        if (caller := self._forget(key)) is not None:
            caller.close()

    def keep_only(self, boxes: Collection[str]) -> None:
        """Forget the callers of all other boxes: their processes have ended. Nobody knows that of visitors."""
        with self._lock:
            gone = [key for key, caller in self._callers.items() if key[0] not in boxes and caller.may_have_gone()]
        for key in gone:
            self._close(key)
