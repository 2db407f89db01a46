"""Connections of one kind, and the one thread that attends to them: what comes in, what goes out, and when.

Whatever another thread wants done with a connection it posts to this one. The agents have such a thread, and peers.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from edge_agent.protocol.channel import Channel, ChannelClosed

logger = logging.getLogger(__name__)

#: Seconds to wait after an error that nobody thought of.
STUMBLED = 0.2
#: Seconds that stopping waits for acknowledgements to go out.
LAST_WORDS = 1.0


class Wire(Protocol):
    """What the thread needs of a connection. The methods raise ``ChannelClosed``."""

    channel: Channel
    address: str

    def heard(self) -> None:
        """Something has come."""

    def flush(self) -> None:
        """Send what was gathered in this turn."""

    def tick(self, now: float) -> float:
        """Do what is due by time (monotonic); when there is something again."""


L = TypeVar("L", bound=Wire)


class Switchboard(Generic[L]):
    """``make`` makes a link of a socket; ``take`` is given each message of one, and may raise ``ChannelClosed``;
    ``ended`` each link that is over, with why. ``turned`` is called at the end of each turn with the time (monotonic),
    ``due`` says when there is something to do by time. All of them are called on the thread, which has ``name``.
    ``listen`` makes a socket on which connections come in that need no further proof; :meth:`connect` is told of them.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[socket.socket, str, str], L],
        take: Callable[[L, bytes], None],
        ended: Callable[[L, str], None],
        turned: Callable[[float], None],
        due: Callable[[float], Iterable[float]],
        listen: Callable[[], socket.socket] | None = None,
    ) -> None:
        self._name = name
        self._make = make
        self._on_message = take
        self._on_end = ended
        self._on_turn = turned
        self._due = due
        self._listen = listen
        self._links: set[L] = set()
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._bell_read, self._bell_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, and listen where that is wanted."""
        if self._listen is not None:
            self._listener = self._listen()
            self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send the last acknowledgements and end every connection. Twice is fine."""
        if self._thread is None or self._stopping:
            return
        self._stopping = True
        self._ring()
        self._thread.join()
        self._selector.close()
        os.close(self._bell_read)
        bell, self._bell_write = self._bell_write, -1
        os.close(bell)

    def post(self, call: Callable[[], None]) -> None:
        """Do something on the thread. Safe from any."""
        self._calls.append(call)
        self._ring()

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"x")
        except (BlockingIOError, OSError):
            pass  # full: it will be heard; closed: there is nobody any more

    # --- from the thread --------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something then."""
        self._later.append((time.monotonic() + seconds, call))

    def is_open(self, link: L) -> bool:
        """Whether a connection stands."""
        return link in self._links

    def connect(self, connection: socket.socket, identity: str, address: str) -> None:
        """A connection was made, of somebody who is local (``identity`` "") or has proved who it is."""
        link = self._make(connection, identity, address)
        if self._stopping:
            link.channel.close()
            return
        self._links.add(link)
        self._selector.register(link.channel, selectors.EVENT_READ, link)
        self._attend(link, selectors.EVENT_READ)  # TLS may have read ahead

    def drop(self, link: L | None, why: str) -> None:
        """End a connection. Twice is fine."""
        if link is None or link not in self._links:
            return
        self._links.discard(link)
        self._selector.unregister(link.channel)
        link.channel.close()
        self._on_end(link, why)

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn(self._until_next())
            except Exception:
                logger.exception("%s stumbled, and goes on", self._name)
                time.sleep(STUMBLED)
        self._last_words()

    def _until_next(self) -> float | None:
        now = time.monotonic()
        due = [at for at, _ in self._later]
        for link in list(self._links):
            try:
                due.append(link.tick(now))
            except ChannelClosed as exc:
                self.drop(link, str(exc))
        due += self._due(now)
        return max(0.0, min(due) - now) if due else None

    def _turn(self, wait: float | None) -> None:
        for key, events in self._selector.select(wait):
            if key.fileobj == self._bell_read:
                with suppress(BlockingIOError):
                    os.read(self._bell_read, 65536)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                self._attend(key.data, events)
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            try:
                call()
            except Exception:
                logger.exception("%s could not do what it was asked", self._name)
        now = time.monotonic()
        for entry in [entry for entry in self._later if now >= entry[0]]:
            self._later.remove(entry)
            entry[1]()
        self._on_turn(now)
        self._flush()

    def _flush(self) -> None:
        for link in list(self._links):
            try:
                link.flush()
                if self._selector.get_key(link.channel).events != link.channel.wants:
                    self._selector.modify(link.channel, link.channel.wants, link)
            except ChannelClosed as exc:
                self.drop(link, str(exc))

    def _last_words(self) -> None:
        """Acknowledgements of what the engine has just committed."""
        deadline = time.monotonic() + LAST_WORDS
        while self._calls:
            self._calls.popleft()()
        self._flush()
        while any(link.channel.backlog for link in self._links) and time.monotonic() < deadline:
            self._turn(0.05)
        for link in list(self._links):
            self.drop(link, "the engine stops")
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self.connect(connection, "", "this machine")

    def _attend(self, link: L, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.channel.flush()
            for data in link.channel.receive():
                link.heard()
                self._on_message(link, data)
        except ChannelClosed as exc:
            self.drop(link, str(exc))
        except Exception:
            logger.exception("what %s sent could not be taken", link.address)
            self.drop(link, "it sent what could not be taken")
