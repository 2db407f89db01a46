"""The gateway's and the command line's way to the kernel: typed calls over its Unix socket."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.contracts import Busy, FlowError
from appliance.kernel import wire

if TYPE_CHECKING:
    from appliance.sharing.cluster import Cluster

CONNECT_TIMEOUT = 2.0


class KernelAway(FlowError):
    """No kernel answers; it is starting, or has been stopped. ``sent``: it may have got the request all the same."""

    id = "kernel-away"
    sent = False


class Unsendable(FlowError):
    """A request that does not fit through the socket: larger than 64 MB, nested too deeply, or no plain data."""

    id = "bad-request"
    retryable = False


class Refused(FlowError):
    """The kernel's own error, with its id."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", "")), detail=error.get("detail"))
        self.error_id = str(error.get("id", "internal"))


class KernelClient:
    """One connection per thread, opened when needed, opened again after the kernel was away."""

    #: Our place in the cluster, for an engine that belongs to one.
    cluster: Callable[[], Cluster] | None = None

    def __init__(self, data: Path) -> None:
        self.data = data
        self._local = threading.local()
        self._numbers = itertools.count(1)
        self._links: set[socket.socket] = set()
        self._lock = threading.Lock()

    def call(self, method: str, timeout: float = 30.0, **params: Any) -> Any:
        """Call and wait for the answer. Raises ``KernelAway``, ``Busy`` or ``Refused``.

        A connection that was found dead before anything was sent is opened anew once; a request that may
        have reached the kernel is never sent twice.
        """
        number = next(self._numbers)
        data = _request(number, method, params)
        link, fresh = self._link()
        try:
            try:
                link.settimeout(timeout)
                link.sendall(data)
            except OSError:
                if fresh:
                    raise
                self._drop(link)
                link, fresh = self._link()
                link.settimeout(timeout)
                link.sendall(data)
            return _result(self._receive(link, number))
        except (OSError, wire.WireError) as exc:
            self._drop(link)
            reason = "did not answer in time" if isinstance(exc, TimeoutError) else "went away"
            away = KernelAway(f"the kernel {reason}")
            away.sent = True
            raise away from None

    def _receive(self, link: socket.socket, number: int) -> Any:
        buffer: bytearray = self._local.buffer
        while True:
            for message in wire.frames(buffer):
                if message[0] == number:
                    return message
            data = link.recv(262_144)
            if not data:
                raise ConnectionResetError
            buffer += data

    def stream(self, method: str, **params: Any) -> Stream:
        """Call a method that answers with items, on a connection of its own."""
        try:
            link = wire.connect(self.data, CONNECT_TIMEOUT)
        except OSError:
            raise KernelAway("the kernel is not running") from None
        try:
            link.sendall(_request(0, method, params))
        except OSError:
            link.close()
            raise KernelAway("the kernel went away") from None
        except BaseException:
            link.close()
            raise
        return Stream(link)

    def adopt(self) -> None:
        """A run was put down for the kernel; it finds the note in the queue."""

    def _link(self) -> tuple[socket.socket, bool]:
        link: socket.socket | None = getattr(self._local, "link", None)
        if link is not None and not _dead(link):
            return link, False
        if link is not None:
            self._drop(link)
        try:
            link = wire.connect(self.data, CONNECT_TIMEOUT)
        except OSError:
            raise KernelAway("the kernel is not running") from None
        self._local.link, self._local.buffer = link, bytearray()
        with self._lock:
            self._links.add(link)
        return link, True

    def _drop(self, link: socket.socket) -> None:
        self._local.link = None
        with self._lock:
            self._links.discard(link)
        link.close()

    def close(self) -> None:
        """Close all connections. Twice is fine."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.close()


class Stream:
    """Items as they come. ``close`` from another thread ends the iteration."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def items(self, timeout: float | None = None) -> Iterator[Any]:
        """Items until the kernel goes away (``KernelAway``); None whenever ``timeout`` seconds bring nothing."""
        for message in self._messages(timeout):
            if message is None:
                yield None
            elif message[1] == wire.ITEM:
                yield message[2]
            else:
                _result(message)

    def result(self, wanted: Callable[[], bool], every: float) -> Any:
        """The answer of a method that gives one; asks every so many seconds whether it is still ``wanted``.

        Raises what :meth:`KernelClient.call` raises, and ``KernelAway`` where it is not.
        """
        for message in self._messages(every):
            if message is None and not wanted():
                break
            if message is not None and message[1] != wire.ITEM:
                return _result(message)
        raise KernelAway("nobody waits for the answer any more")

    def _messages(self, timeout: float | None) -> Iterator[Any]:
        buffer = bytearray()
        self._link.settimeout(timeout)
        while True:
            try:
                data = self._link.recv(262_144)
            except TimeoutError:
                yield None
                continue
            except OSError:
                data = b""
            if not data:
                raise KernelAway("the kernel went away")
            buffer += data
            yield from wire.frames(buffer)

    def close(self) -> None:
        """End the stream. Twice is fine."""
        try:
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._link.close()


def _request(number: int, method: str, params: dict[str, Any]) -> bytes:
    try:
        return wire.frame([number, method, params])
    except Exception as exc:
        raise Unsendable(f"the kernel cannot be asked this: {exc}") from None


def _result(message: Any) -> Any:
    _, status, result = message
    if status == wire.OK:
        return result
    if result.get("id") == Busy.id:
        raise Busy(result["message"], float(result.get("retry_after", 1.0)))
    raise Refused(result)


def _dead(link: socket.socket) -> bool:
    """True if the other side has closed an idle connection."""
    try:
        link.settimeout(0)
        return link.recv(1, socket.MSG_PEEK) == b""
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True
