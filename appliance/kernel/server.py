"""The kernel's end of the socket: one thread that reads requests; answers are sent from whichever thread has them."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.contracts import Busy, FlowError
from appliance.kernel import wire

logger = logging.getLogger(__name__)

MAX_BACKLOG = 16_000_000


class Caller:
    """One connection."""

    def __init__(self, link: socket.socket, wake: Callable[[Caller], None]) -> None:
        self.link = link
        self.inbox = bytearray()
        self.closed = False
        self.on_close: list[Callable[[], None]] = []
        self._backlog = bytearray()
        self._lock = threading.Lock()
        self._wake = wake

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, the rest when it takes more; a caller that never reads is cut off."""
        with self._lock:
            if self.closed:
                return
            if not self._backlog:
                try:
                    data = data[self.link.send(data) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self.closed = True
                if not data and not self.closed:
                    return
            self._backlog += data
            self.closed = self.closed or len(self._backlog) > MAX_BACKLOG
        self._wake(self)

    def flush(self) -> bool:
        """Send more of what waits; True if nothing is left."""
        with self._lock:
            try:
                while self._backlog:
                    del self._backlog[: self.link.send(self._backlog)]
            except BlockingIOError:
                return False
            except OSError:
                self.closed = True
            return True

    @property
    def backlog(self) -> int:
        return len(self._backlog)


class Reply:
    """Where the answer to one request goes. Safe from any thread; the first answer counts."""

    __slots__ = ("_done", "_number", "caller")

    def __init__(self, caller: Caller, number: int) -> None:
        self.caller = caller
        self._number = number
        self._done = False

    def ok(self, result: Any = None) -> None:
        """Answer."""
        self._send(wire.OK, result)

    def error(self, exc: BaseException) -> None:
        """Answer with what went wrong."""
        error: dict[str, Any] = {"id": "internal", "message": f"{type(exc).__name__}: {exc}"}
        if isinstance(exc, FlowError):
            error = {"id": exc.id, "message": exc.message, "detail": exc.detail}
        if isinstance(exc, Busy):
            error["retry_after"] = exc.retry_after
        self._send(wire.ERROR, error)

    def item(self, value: Any) -> None:
        """One item of a stream."""
        self.caller.send(wire.frame([self._number, wire.ITEM, value]))

    def _send(self, status: int, result: Any) -> None:
        if self._done:
            return
        self._done = True
        try:
            data = wire.frame([self._number, status, result])
        except (ValueError, TypeError, OverflowError) as exc:
            data = wire.frame([self._number, wire.ERROR, {"id": "internal", "message": str(exc)}])
        self.caller.send(data)


Handler = Callable[[Mapping[str, Any], Reply], None]


class Server:
    """Serves methods on the data folder's socket until it is stopped."""

    def __init__(self, data: Path, methods: Mapping[str, Handler]) -> None:
        self._data = data
        self._methods = methods
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._callers: set[Caller] = set()
        self._changed: list[Caller] = []
        self._stopping = False
        self._bell_read, self._bell_write = os.pipe()
        os.set_blocking(self._bell_write, False)
        os.set_blocking(self._bell_read, False)

    def start(self) -> None:
        """Listen, and serve on a thread of its own."""
        self._listener = wire.listen(self._data)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._bell_read, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="rpc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, send what is left to send, close. Twice is fine."""
        if self._stopping:
            return
        self._stopping = True
        self._ring()
        if self._thread is not None:
            self._thread.join()
        for caller in list(self._callers):
            caller.flush()
            self._close(caller)
        if self._listener is not None:
            self._listener.close()
            (self._data / wire.SOCKET).unlink(missing_ok=True)
        self._selector.close()
        os.close(self._bell_read)
        os.close(self._bell_write)

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"x")
        except BlockingIOError:
            pass

    def _wake(self, caller: Caller) -> None:
        self._changed.append(caller)
        self._ring()

    def _serve(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._bell_read:
                    self._answer_bell()
                else:
                    self._service(key.data, events)

    def _answer_bell(self) -> None:
        try:
            os.read(self._bell_read, 4096)
        except BlockingIOError:
            pass
        while self._changed:
            caller = self._changed.pop()
            if caller.closed:
                self._close(caller)
            elif caller in self._callers:
                self._selector.modify(caller.link, selectors.EVENT_READ | selectors.EVENT_WRITE, caller)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        link.setblocking(False)
        caller = Caller(link, self._wake)
        self._callers.add(caller)
        self._selector.register(link, selectors.EVENT_READ, caller)

    def _service(self, caller: Caller, events: int) -> None:
        if events & selectors.EVENT_WRITE and caller.flush() and not caller.closed:
            self._selector.modify(caller.link, selectors.EVENT_READ, caller)
        if events & selectors.EVENT_READ and not self._read(caller):
            caller.closed = True
        if caller.closed:
            self._close(caller)

    def _read(self, caller: Caller) -> bool:
        try:
            data = caller.link.recv(262_144)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        caller.inbox += data
        try:
            for message in wire.frames(caller.inbox):
                self._dispatch(caller, message)
        except wire.WireError as exc:
            logger.warning("a caller on %s was cut off: %s", wire.SOCKET, exc)
            return False
        return True

    def _dispatch(self, caller: Caller, message: Any) -> None:
        try:
            number, method, params = message
            reply = Reply(caller, number)
            handler = self._methods[method]
        except (ValueError, TypeError, KeyError) as exc:
            raise wire.WireError(f"not a request: {exc}") from None
        try:
            handler(params, reply)
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("%s failed", method)
            reply.error(exc)

    def _close(self, caller: Caller) -> None:
        if caller not in self._callers:
            return
        self._callers.discard(caller)
        caller.closed = True
        try:
            self._selector.unregister(caller.link)
        except (KeyError, ValueError):
            pass
        caller.link.close()
        for callback in caller.on_close:
            callback()
