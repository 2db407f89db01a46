"""A TCP port at which machines knock: each visitor is heard on a thread of its own, of which there are few.

What it takes to be heard is bounded: so many at one time, and so many seconds each, however slowly it speaks.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edge_agent.protocol import certificates
from edge_agent.protocol.channel import tune
from edge_agent.protocol.pairing import PairingError

logger = logging.getLogger(__name__)

#: Visitors that are heard at one time, and seconds that each has in all, however slowly it speaks.
VISITORS, PATIENCE = 8, 10.0


class Hurried:
    """A connection that has to be done with by ``until`` (monotonic): each wait is only as long as what is left.

    Implements :class:`edge_agent.protocol.pairing.Connection`. Raises ``TimeoutError``.
    """

    def __init__(self, link: socket.socket, until: float) -> None:
        self.link = link
        self._until = until

    def wait(self) -> None:
        """Let the next operation, and its parts together, take what is left."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        self.link.settimeout(left)

    def recv(self, count: int, flags: int = 0, /) -> bytes:
        self.wait()
        return self.link.recv(count, flags)

    def sendall(self, data: bytes, /) -> None:
        self.wait()
        self.link.sendall(data)


def identify(visitor: Hurried, folder: Path, trusted: Sequence[bytes]) -> tuple[ssl.SSLSocket, str]:
    """TLS with a visitor that shows one of the ``trusted`` certificates (PEM), and which, by its fingerprint.

    ``folder`` has our own. Raises ``OSError``.
    """
    context = certificates.context(folder, server=True, trusted=trusted)
    visitor.wait()
    secure = context.wrap_socket(visitor.link, server_side=True)
    try:
        return secure, certificates.fingerprint_of(secure.getpeercert(binary_form=True) or b"")
    except ValueError:  # it went in the middle
        secure.close()
        raise OSError("it has gone") from None


class Listening:
    """``hear(connection, address)`` is called on a visitor's thread, and says whether it has handed the connection on
    (else it is closed). It may raise ``OSError`` or ``PairingError``. Safe from any thread.
    """

    def __init__(self, name: str, port: int, hear: Callable[[Hurried, str], bool]) -> None:
        self._name = name
        self._wanted = port
        self._hear = hear
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._seats = threading.BoundedSemaphore(VISITORS)
        self._visitors: set[socket.socket] = set()
        self._hearing: set[threading.Thread] = set()
        self.closed = False

    @property
    def port(self) -> int:
        """The port that is listened on, or 0."""
        listener = self._listener
        return int(listener.getsockname()[1]) if listener is not None else 0

    def open(self) -> bool:
        """Listen; False if that is so already, or all is over. Raises ``OSError``."""
        with self._lock:
            if self._listener is not None or self.closed:
                return False
            listener = _bind(self._wanted)
            self._listener = listener
            self._thread = threading.Thread(target=self._serve, args=(listener,), name=self._name, daemon=True)
            self._thread.start()
        return True

    def shut(self) -> None:
        """Listen no more; visitors are still heard. Twice is fine."""
        with self._lock:
            listener, self._listener = self._listener, None
            thread, self._thread = self._thread, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def close(self) -> None:
        """Listen no more, ever, and send the visitors away. Twice is fine."""
        self.closed = True
        self.shut()
        with self._lock:
            visitors, hearing = list(self._visitors), list(self._hearing)
        for visitor in visitors:
            with suppress(OSError):
                visitor.shutdown(socket.SHUT_RDWR)
        for thread in hearing:
            thread.join(PATIENCE)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                link, address = listener.accept()
            except OSError:
                return  # closed
            if not self._seats.acquire(blocking=False):
                link.close()
                continue
            thread = threading.Thread(
                target=self._listen_to,
                args=(link, str(address[0]).removeprefix("::ffff:")),
                name="visitor",
                daemon=True,
            )
            with self._lock:
                self._visitors.add(link)
                self._hearing.add(thread)
            thread.start()

    def _listen_to(self, link: socket.socket, address: str) -> None:
        handed = False
        try:
            tune(link)
            handed = self._hear(Hurried(link, time.monotonic() + PATIENCE), address)
        except (OSError, PairingError) as exc:
            logger.info("a connection from %s was not let in: %s", address, exc)
        except Exception:
            logger.exception("a connection from %s failed", address)
        finally:
            with self._lock:
                self._visitors.discard(link)
                self._hearing.discard(threading.current_thread())
            if not handed:
                link.close()
            self._seats.release()


def _bind(port: int) -> socket.socket:
    """All addresses, of both families if the machine has them."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16)
    return socket.create_server(("0.0.0.0", port), backlog=16)  # noqa: S104 the door to other machines
