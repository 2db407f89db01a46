"""TLS on the gateway's one port: what a connection speaks is seen by its first byte.

So the address that people know stays the one address, whether HTTPS is on or not.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from appliance.kernel.clock import Clock
from appliance.listener import host_names, network_addresses
from appliance.security.https.certificates import Certificates, HostNames

#: Seconds for a client to send or take the next byte.
STALLED = 20
#: The first byte of every TLS connection: a handshake record (RFC 8446, 5.1). No HTTP request begins with it.
_HANDSHAKE = b"\x16"


class PatientTls(ssl.SSLSocket):
    """A TLS connection on which "blocking" means: for :data:`STALLED` seconds.

    The bound that plain connections have from the kernel (``SO_RCVTIMEO``) does not count in OpenSSL's hands: there a
    client that sends nothing more would hold its thread for ever.
    """

    def setblocking(self, flag: bool) -> None:
        self.settimeout(STALLED if flag else 0.0)


def certificates_of(
    data: Path,
    engine: str,
    *,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Certificates:
    """The certificates of the engine with this id, on this machine."""
    clock = Clock(lambda: 0.0, wall=now, monotonic=monotonic)
    return Certificates(
        data,
        engine,
        lambda: HostNames(host_names(), tuple(network_addresses())),
        now=now,
        monotonic=monotonic,
        clock_right=lambda: clock.trusted()[0],
        kind=PatientTls,
    )


def speaks_tls(sock: socket.socket) -> bool:
    """Whether the client begins a TLS handshake. Blocks until its first byte is there."""
    return sock.recv(1, socket.MSG_PEEK) == _HANDSHAKE


class SharedTls:
    """A TLS connection that one thread reads while another writes, which OpenSSL does not allow by itself.

    What a WebSocket needs of a socket. ``close`` leaves the connection to its owner.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.settimeout(0.0)

    def fileno(self) -> int:
        """For a selector."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """All that is there, at least a byte; nothing at the end. More than ``size`` may come: a selector does not see
        what OpenSSL has read ahead.
        """
        while True:
            with self._lock:
                try:
                    data = self._sock.recv(size)
                    while data and (more := self._sock.pending()):
                        data += self._sock.recv(more)
                    return data
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
            self._wait(wanted, None)

    def send(self, data: bytes) -> int:
        """Send all of it. Raises ``TimeoutError`` for a client that takes nothing for :data:`STALLED` seconds."""
        rest = memoryview(data)
        while rest:
            wanted = 0
            with self._lock:
                try:
                    rest = rest[self._sock.send(rest) :]
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
            if wanted and not self._wait(wanted, STALLED):
                raise TimeoutError("the client takes nothing")
        return len(data)

    def _wait(self, what: int, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._sock, what)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def shutdown(self, how: int) -> None:
        """End the connection under TLS; whoever waits for it wakes up."""
        socket.socket.shutdown(self._sock, how)

    def close(self) -> None:
        """Nothing: who accepted the connection closes it."""
