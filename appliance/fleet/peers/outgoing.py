"""What this engine says to another one that it calls: who is there, a pairing, or TLS. Each blocks its thread.

:class:`Lines` cuts all of it off at once, so that the end of the engine waits for no address that is dead.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from appliance.contracts import ConfigError
from appliance.fleet.peers.gate import PEERS, WHO, Introduction
from edge_agent.protocol import certificates, pairing

#: Seconds that calling another engine may take, each step of it.
PATIENCE = 5.0


class Lines:
    """The connections that are being made. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: set[socket.socket] = set()
        self.closed = False

    def cut(self) -> None:
        """End what goes on, and let nothing begin. A name that is being looked up is given up when that is over."""
        with self._lock:
            self.closed = True
            for handle in self._handles:
                # A connection that is still being made ends by that, too: Linux's inet_shutdown() gives it up.
                with suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def open(self, host: str, port: int) -> Iterator[socket.socket]:
        """A connection, for who closes it or keeps it; cut off only while in here. Raises ``OSError``."""
        # As bytes: a name of ASCII needs no IDNA, nor the library's tables for it.
        name = host.encode() if host.isascii() else host
        trouble = OSError("it has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            link = socket.socket(family, kind, protocol)
            # Another handle on the same connection, which stays as TLS takes over the first.
            handle = link.dup()
            try:
                try:
                    self._add(handle)
                    link.settimeout(PATIENCE)
                    link.connect(address)
                except OSError as exc:
                    link.close()
                    trouble = exc
                    continue
                yield link
                return
            finally:
                self._drop(handle)
        raise trouble

    def _add(self, handle: socket.socket) -> None:
        with self._lock:
            if self.closed:
                raise OSError("this engine is being stopped")
            self._handles.add(handle)

    def _drop(self, handle: socket.socket) -> None:
        with self._lock:
            self._handles.discard(handle)
        handle.close()


def join(lines: Lines, host: str, port: int, code: str, mine: Introduction) -> tuple[Introduction, str]:
    """Pair with the engine there, which shows ``code``: what it says of itself, and the address that was reached.

    Raises ``OSError``, ``pairing.PairingError``, ``ConfigError``.
    """
    with lines.open(host, port) as link, link:
        link.settimeout(PATIENCE * 2)
        theirs = pairing.exchange(link, code, mine, Introduction, PEERS)
        if theirs.refusal:
            raise ConfigError(f"the other engine says: {theirs.refusal}")
        return theirs, _reached(link)


def identified(
    lines: Lines, host: str, port: int, folder: Path, trusted: list[bytes]
) -> tuple[ssl.SSLSocket, str, str]:
    """TLS with an engine that shows one of the ``trusted`` certificates: connection, fingerprint, address.

    Raises ``OSError``.
    """
    with lines.open(host, port) as link:
        held: socket.socket = link
        try:
            address = _reached(link)
            held = secure = certificates.context(folder, server=False, trusted=trusted).wrap_socket(link)
            fingerprint = certificates.fingerprint_of(secure.getpeercert(binary_form=True) or b"")
        except ssl.SSLCertVerificationError:
            raise OSError("another engine answers there") from None
        except ValueError:  # it was cut off before TLS began, so there is no certificate
            held.close()
            raise OSError("the connection ended at once") from None
        except BaseException:
            held.close()
            raise
        return secure, fingerprint, address


def who(lines: Lines, host: str, port: int) -> dict[str, Any]:
    """What an engine tells strangers of itself. Raises ``OSError``."""
    with lines.open(host, port) as link, link:
        link.sendall(WHO)
        data = b""
        while len(data) < pairing.LARGEST and (piece := link.recv(4096)):
            data += piece
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        raise OSError("no engine answers there, or it tells strangers nothing") from None


def _reached(link: socket.socket) -> str:
    return str(link.getpeername()[0]).removeprefix("::ffff:")
