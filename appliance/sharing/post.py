"""One process's end of the bus: a box of its own, a thread that empties it, and one that sends what waits.

What waits for one box goes as one message, so a burst costs the shared service little, and nobody who has something
to say (the engine's thread first of all) waits for the network.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from appliance.contracts import FlowError
from appliance.security.sealing import Cipher, NotSealed, Opener, Sealer
from appliance.sharing.service import Service, ServiceAway

logger = logging.getLogger(__name__)

#: Seconds between two tries while the service is away; that one look into the box waits.
_RETRY, _LONGEST_RETRY = 0.1, 2.0
_WAIT = 5.0
#: Bytes that one message holds at most before the next is begun, and how many may wait to be sent.
_MAX_MESSAGE = 8_000_000
_MAX_WAITING = 20_000

#: Takes each part of a message, in order, on the thread that empties the box.
Handler = Callable[[Any], None]
Failed = Callable[[FlowError], None]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Post:
    """Sends parts to boxes and hands on what comes into its own. ``start`` and ``stop`` once each."""

    def __init__(self, service: Service, cipher: Cipher, box: str, handler: Handler) -> None:
        self.box = box
        self._service = service
        self._sealer = Sealer(cipher)
        self._opener = Opener(cipher, box)
        self._handler = handler
        self._waiting: deque[tuple[str, bytes, Failed | None]] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        #: Why the service cannot be used right now; empty if it can.
        self.away = ""

    def start(self) -> None:
        """Begin to send and to receive."""
        for work, name in ((self._receive_all, "bus-in"), (self._send_all, "bus-out")):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, patience: float = 2.0) -> None:
        """Send what waits, if that goes quickly, and end. The caller closes the service afterwards. Twice is fine."""
        if not self._stopping.is_set():
            self._stopping.set()
            with self._changed:
                self._changed.notify_all()
            self._wake()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(patience)

    def _wake(self) -> None:
        """End the wait of the thread that empties the box."""
        try:
            self._service.send(self.box, b"")
        except ServiceAway as exc:
            logger.debug("nobody waits at a service that is away: %s", exc)

    def send(self, box: str, part: Any, failed: Failed | None = None) -> None:
        """Have a part sent soon. ``failed`` is told, on the sending thread, if it certainly did not go out."""
        data = _encode(part)
        with self._changed:
            full = len(self._waiting) >= _MAX_WAITING
            if not full:
                self._waiting.append((box, data, failed))
                self._changed.notify()
        if full:
            error = ServiceAway("more messages wait than the cluster's bus can take")
            logger.warning("%s", error)
            if failed is not None:
                failed(error)

    # --- sending -----------------------------------------------------------------------------------

    def _send_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping.is_set():
                    self._changed.wait()
                if not self._waiting:
                    return
                taken, self._waiting = self._waiting, deque()
            for box, parts in _by_box(taken):
                self._send(box, parts)

    def _send(self, box: str, parts: list[tuple[bytes, Failed | None]]) -> None:
        data = _encode([msgspec.Raw(part) for part, _ in parts])
        try:
            self._service.send(box, self._sealer.seal(data, box))
        except FlowError as exc:
            self._failed(exc)
            for _, failed in parts:
                if failed is not None:
                    failed(exc)

    # --- receiving ---------------------------------------------------------------------------------

    def _receive_all(self) -> None:
        pause = _RETRY
        while not self._stopping.is_set():
            try:
                messages = self._service.receive(self.box, _WAIT)
            except ServiceAway as exc:
                if self._stopping.is_set():
                    return
                self._failed(exc)
                self._stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_RETRY)
                continue
            if self.away:
                logger.warning("the cluster's bus works again")
                self.away = ""
            pause = _RETRY
            for message in messages:
                if message or not self._stopping.is_set():
                    self._open(message)

    def _open(self, message: bytes) -> None:
        try:
            parts = _decode(self._opener.open(message))
        except (NotSealed, msgspec.DecodeError) as exc:
            logger.error("a message in %s is thrown away: %s", self.box, exc)
            return
        for part in parts:
            try:
                self._handler(part)
            except Exception:
                logger.exception("a message in %s could not be handled", self.box)

    def _failed(self, exc: FlowError) -> None:
        if not self.away:
            logger.warning("the cluster's bus cannot be used: %s", exc.message)
        self.away = exc.message


def _by_box(
    taken: deque[tuple[str, bytes, Failed | None]],
) -> list[tuple[str, list[tuple[bytes, Failed | None]]]]:
    """What is to be sent, gathered into messages, each box's parts in order."""
    messages: list[tuple[str, list[tuple[bytes, Failed | None]]]] = []
    open_: dict[str, tuple[int, list[tuple[bytes, Failed | None]]]] = {}
    for box, data, failed in taken:
        size, parts = open_.get(box, (0, []))
        if not parts or size + len(data) > _MAX_MESSAGE:
            size, parts = 0, []
            messages.append((box, parts))
        parts.append((data, failed))
        open_[box] = (size + len(data), parts)
    return messages
