"""The kernel's end of the socket: one thread that reads requests; answers are sent from whichever thread has them."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from appliance.contracts import Busy, FlowError
from appliance.kernel import wire

logger = logging.getLogger(__name__)

#: Bytes that may wait for a caller to read them before it is cut off; one answer may be larger.
MAX_BACKLOG = 16_000_000
#: Each takes a file descriptor, of which a process commonly has 1,024, and the shards need some.
MAX_CALLERS = 400
ACCEPT_PAUSE = 0.05


class BadRequest(FlowError):
    """A call that the kernel cannot make sense of."""

    id = "bad-request"
    retryable = False


class Params(dict[str, Any]):
    """A call's parameters; one that is missing is the caller's fault."""

    def __missing__(self, name: str) -> Any:
        raise BadRequest(f"the parameter {name!r} is missing")


class Asker(Protocol):
    """Who asked, and gets the answer: somebody on the socket, or on the bus of a cluster."""

    #: Called when the asker has gone.
    on_close: list[Callable[[], None]]

    def send(self, data: bytes) -> None:
        """Send a frame, from any thread; to one who has gone: nothing."""

    def answered(self) -> None:
        """A request was answered: no further frame of it comes."""


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
            self.closed = self.closed or len(self._backlog) > MAX_BACKLOG
            self._backlog += data
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

    def answered(self) -> None:
        """The connection stays open for further requests."""

    @property
    def backlog(self) -> int:
        return len(self._backlog)


class Reply:
    """Where the answer to one request goes. Safe from any thread; the first answer counts."""

    __slots__ = ("_done", "_number", "_scrub", "caller")

    def __init__(self, caller: Asker, number: int, scrub: Callable[[Any, bytes], Any]) -> None:
        self.caller = caller
        self._number = number
        self._scrub = scrub
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
        """One item of a stream; one that cannot be sent is left out."""
        try:
            self.caller.send(self._frame(wire.ITEM, value))
        except Exception:
            logger.exception("an item of a stream cannot be sent")

    def _send(self, status: int, result: Any) -> None:
        if self._done:
            return
        self._done = True
        try:
            data = self._frame(status, result)
        except Exception as exc:
            error = {"id": "internal", "message": f"the answer cannot be sent: {type(exc).__name__}: {exc}"}
            data = self._frame(wire.ERROR, error)
        self.caller.send(data)
        self.caller.answered()

    def _frame(self, status: int, result: Any) -> bytes:
        data = wire.frame([self._number, status, result])
        cleaned = self._scrub(result, data)
        return data if cleaned is result else wire.frame([self._number, status, cleaned])


Handler = Callable[[Params, Reply], None]


def _as_it_is(result: Any, data: bytes) -> Any:
    return result


class Server:
    """Serves methods on the data folder's socket until it is stopped."""

    def __init__(
        self, data: Path, methods: Mapping[str, Handler], scrub: Callable[[Any, bytes], Any] = _as_it_is
    ) -> None:
        """``scrub(result, packed)`` gives what is sent for a result: itself, or a copy without secrets."""
        self._data = data
        self._methods = methods
        self._scrub = scrub
        self._quiet = False
        #: What a caller hears while the kernel stops.
        self.refusal: Callable[[], FlowError] = lambda: Busy("the kernel is stopping", retry_after=5.0)
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

    def quiet(self) -> None:
        """Take no more callers and no more requests; answers to those under way are still sent."""
        self._quiet = True
        self._ring()

    def stop(self) -> None:
        """Stop listening, send what is left to send, close. Twice is fine."""
        if self._stopping:
            return
        self._stopping = True
        self._ring()
        if self._thread is not None:
            self._thread.join()
        self._stop_listening()
        for caller in list(self._callers):
            caller.flush()
            self._close(caller)
        self._selector.close()
        os.close(self._bell_read)
        bell, self._bell_write = self._bell_write, -1
        os.close(bell)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()
            (self._data / wire.SOCKET).unlink(missing_ok=True)

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"x")
        except (BlockingIOError, OSError):
            # Full: it will be heard. Closed: there is nobody any more.
            pass

    def _wake(self, caller: Caller) -> None:
        self._changed.append(caller)
        self._ring()

    def _serve(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select():
                try:
                    self._attend(key, events)
                except Exception:
                    logger.exception("a caller on %s was cut off", wire.SOCKET)
                    if isinstance(key.data, Caller):
                        self._close(key.data)

    def _attend(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj == self._bell_read:
            self._answer_bell()
        elif key.data is None:
            self._accept()
        else:
            self._service(key.data, events)

    def _answer_bell(self) -> None:
        try:
            os.read(self._bell_read, 4096)
        except BlockingIOError:
            pass
        if self._quiet:
            self._stop_listening()
        while self._changed:
            caller = self._changed.pop()
            if caller.closed:
                self._close(caller)
            elif caller in self._callers:
                self._selector.modify(caller.link, selectors.EVENT_READ | selectors.EVENT_WRITE, caller)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            link, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:
            # No descriptor left: the callers in the queue keep ringing, so do not spin.
            logger.warning("a caller on %s cannot be taken: %s", wire.SOCKET, exc)
            time.sleep(ACCEPT_PAUSE)
            return
        if len(self._callers) >= MAX_CALLERS:
            link.close()
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
                self.dispatch(caller, message)
        except wire.WireError as exc:
            logger.warning("a caller on %s was cut off: %s", wire.SOCKET, exc)
            return False
        return True

    def dispatch(self, caller: Asker, message: Any) -> None:
        """Have a request ``[id, method, params]`` answered. Raises ``WireError`` for what is none."""
        try:
            number, method, params = message
        except (ValueError, TypeError) as exc:
            raise wire.WireError(f"not a request: {exc}") from None
        if not isinstance(number, int):
            raise wire.WireError("not a request: its number is none")
        reply = Reply(caller, number, self._scrub)
        try:
            self._handler(method, params)(Params(params), reply)
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("%s failed", method)
            reply.error(exc)

    def _handler(self, method: Any, params: Any) -> Handler:
        if self._quiet:
            raise self.refusal()
        handler = self._methods.get(method) if isinstance(method, str) else None
        if handler is None:
            raise BadRequest(f"there is no method {method!r:.100}")
        if not (isinstance(params, dict) and all(isinstance(name, str) for name in params)):
            raise BadRequest("the parameters must be a map with names")
        return handler

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
            try:
                callback()
            except Exception:
                logger.exception("something to do behind a caller failed")
