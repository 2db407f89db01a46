"""One connection between agent and appliance: frames over a non-blocking socket, plain (Unix) or TLS (TCP).

A frame is four bytes of length (big-endian) and a message. One thread uses a channel; others post to that thread.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from collections.abc import Iterator

#: Bytes of one frame: an event and a bit, or a piece of a blob.
MAX_FRAME = 4_000_000
#: Bytes that may wait for the other side to read them.
MAX_BACKLOG = 32_000_000
_CHUNK = 262_144
#: Seconds that sent bytes may stay unacknowledged by the other machine (tcp(7)).
USER_TIMEOUT = 20.0


class ChannelClosed(Exception):
    """The connection is over; the text says why."""


class Channel:
    """Frames in, frames out. Raises ``ChannelClosed`` from every method once the connection is over."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self.link = link
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._read_needs_write = False
        self._closed = False

    def fileno(self) -> int:
        return self.link.fileno()

    @property
    def wants(self) -> int:
        """What to wait for, as ``selectors`` has it."""
        writing = self._outbox or self._read_needs_write
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)

    @property
    def backlog(self) -> int:
        """Bytes that the other side has not taken yet."""
        return len(self._outbox)

    def send(self, message: bytes) -> None:
        """Send now what the socket takes, the rest with :meth:`flush`."""
        if len(message) > MAX_FRAME:
            raise ValueError(f"a message of {len(message):,} bytes is too large")
        if len(self._outbox) > MAX_BACKLOG:
            raise ChannelClosed("the other side does not read")
        self._outbox += len(message).to_bytes(4, "big") + message
        self.flush()

    def flush(self) -> None:
        """Send more of what waits."""
        try:
            while self._outbox:
                sent = self.link.send(self._outbox[:_CHUNK])
                del self._outbox[:sent]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as exc:
            raise ChannelClosed(_reason(exc)) from None

    def receive(self) -> Iterator[bytes]:
        """The whole messages that have come."""
        more = True
        while more:
            more, over = self._read()
            yield from self._frames()
            if over:
                raise ChannelClosed(over)

    def _read(self) -> tuple[bool, str]:
        """Take what is there, up to a frame's size: whether there may be more, and why there never will be."""
        self._read_needs_write = False
        try:
            while len(self._inbox) <= MAX_FRAME:
                data = self.link.recv(_CHUNK)
                if not data:
                    return False, "the other side has closed the connection"
                self._inbox += data
        except (BlockingIOError, ssl.SSLWantReadError):
            return False, ""
        except ssl.SSLWantWriteError:
            self._read_needs_write = True
            return False, ""
        except OSError as exc:
            return False, _reason(exc)
        return True, ""

    def _frames(self) -> Iterator[bytes]:
        start = 0
        try:
            while len(self._inbox) - start >= 4:
                length = int.from_bytes(self._inbox[start : start + 4], "big")
                if length > MAX_FRAME:
                    raise ChannelClosed("what came is not of this protocol")
                if len(self._inbox) - start - 4 < length:
                    return
                start += 4 + length
                yield bytes(self._inbox[start - length : start])
        finally:
            del self._inbox[:start]

    def close(self) -> None:
        """End the connection. Twice is fine."""
        if not self._closed:
            self._closed = True
            self.link.close()


def tune(link: socket.socket) -> None:
    """Set what every TCP connection of ours needs: no waiting for more to send, and a dead line is noticed."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(USER_TIMEOUT * 1000))


def _reason(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        reason = str(exc.reason or exc).replace("_", " ").lower()
        if "unknown ca" in reason or "certificate" in reason:
            return "the other side does not know this machine (any more): pair it again"
        return f"the connection was not secure: {reason}"
    return (exc.strerror or str(exc)).lower()
