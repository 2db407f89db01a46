"""The kernel's process connector: every fork, exec and exit by netlink, a fraction of a millisecond late.

linux/cn_proc.h and linux/connector.h. It needs the machine's own process namespace (no container),
and before Linux 6.6 CAP_NET_ADMIN.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import struct
import time

from msgspec import Struct

from drivers.base import DriverError

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = 1
_CN_VAL_PROC = 1
_LISTEN = 1
_NLMSG_DONE = 3

_NETLINK = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_CN = struct.Struct("=IIIIHH")  # idx, val, seq, ack, len, flags
_EVENT = struct.Struct("=IIQ")  # what, cpu, nanoseconds since boot
_IDS = struct.Struct("=IIII")
_BODY = _NETLINK.size + _CN.size
_NONE, FORK, EXEC, EXIT = 0x0, 0x1, 0x2, 0x80000000

#: Bytes of events that the kernel keeps while we are busy; some 10,000 of them.
_BUFFER = 2_000_000
#: Seconds in which the kernel has to say that it listens. In a container it never does.
_PATIENCE = 1.0


class ProcessEvent(Struct, frozen=True):
    """``what`` is ``FORK``, ``EXEC`` or ``EXIT`` of a whole process; ``status`` is that of wait(2)."""

    what: int
    pid: int
    parent: int
    nanoseconds: int
    status: int = 0


class Connector:
    """The subscription. Closing twice is fine."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Raises ``DriverError`` where it may not be used."""
        try:
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR)
        except OSError as exc:
            raise DriverError(f"this kernel has no process connector: {exc.strerror}", retryable=False) from exc
        self._socket = link
        try:
            link.setblocking(False)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            link.bind((0, _CN_IDX_PROC))
            self._be_heard(self._listen())
        except OSError as exc:
            self.close()
            raise DriverError(f"the process connector may not be used: {exc.strerror or exc}") from exc

    def close(self) -> None:
        link, self._socket = self._socket, None
        if link is not None:
            link.close()

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    def read(self) -> list[ProcessEvent] | None:
        """What has happened since, or ``None`` when the kernel had to leave some of it out."""
        assert self._socket is not None
        found: list[ProcessEvent] = []
        for _ in range(256):
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno == errno.ENOBUFS:
                    return None
                raise
            if (event := _parse(data)) is not None and event.what != _NONE:
                found.append(event)
        return found

    def _listen(self) -> int:
        """Ask for events; returns the number by which the kernel's answer is known."""
        assert self._socket is not None
        body = struct.pack("=I", _LISTEN)
        number = secrets.randbits(31)
        head = _NETLINK.pack(_BODY + len(body), _NLMSG_DONE, 0, 0, os.getpid())
        self._socket.send(head + _CN.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, number, len(body), 0) + body)
        return number

    def _be_heard(self, number: int) -> None:
        """Wait for the kernel's answer. It goes to all who listen, and others' events may come before it."""
        assert self._socket is not None
        deadline = time.monotonic() + _PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            data = self._socket.recv(4096)
            event = _parse(data)
            if event is None or event.what != _NONE:
                continue
            if _CN.unpack_from(data, _NETLINK.size)[3] == number + 1:
                if event.status:
                    raise OSError(event.status, os.strerror(event.status))
                return
        raise OSError(errno.EPERM, "the kernel does not answer (a container?)")


def _parse(data: bytes) -> ProcessEvent | None:
    """The event in a message; nothing for threads and for kinds that nobody here asks for."""
    if len(data) < _BODY + _EVENT.size + 4:
        return None
    what, _, nanoseconds = _EVENT.unpack_from(data, _BODY)
    place = _BODY + _EVENT.size
    if what == _NONE:
        return ProcessEvent(_NONE, 0, 0, nanoseconds, struct.unpack_from("=I", data, place)[0])
    if what == FORK:
        _, parent, thread, process = _IDS.unpack_from(data, place)
        return ProcessEvent(FORK, process, parent, nanoseconds) if thread == process else None
    if what == EXEC:
        _, process = struct.unpack_from("=II", data, place)
        return ProcessEvent(EXEC, process, 0, nanoseconds)
    if what == EXIT:
        thread, process, status, _ = _IDS.unpack_from(data, place)
        return ProcessEvent(EXIT, process, 0, nanoseconds, status) if thread == process else None
    return None
