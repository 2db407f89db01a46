"""Makes the connection to the appliance, again and again until it stands: on a thread that lives only meanwhile."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

#: Seconds for which nothing is said of an appliance that is not there yet: agent and appliance often start together.
SILENCE = 5.0

Dial = Callable[[], socket.socket]


class Route(Protocol):
    """Ways to an appliance."""

    #: Seconds between two rounds, at first and at most.
    first: float
    longest: float

    def ways(self) -> Iterator[tuple[str, Dial]]:
        """Each with its name for people, the most likely first; may take its time between two."""

    def worked(self, name: str) -> None:
        """A connection by this way was welcomed."""


class Local:
    """The appliance on this machine: a Unix socket in its data folder, which only its user can reach."""

    first, longest = 0.05, 1.0

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def ways(self) -> Iterator[tuple[str, Dial]]:
        yield f"{self._folder}/{self._name}", self._dial

    def worked(self, name: str) -> None:
        """There is only one way."""

    def _dial(self) -> socket.socket:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(5.0)
            # Short enough for the 107 bytes of a socket's path, however deep the folder lies.
            link.connect(f"/proc/self/fd/{folder}/{self._name}")
        except BaseException:
            link.close()
            raise
        finally:
            os.close(folder)
        return link


class Dialer:
    """``begin`` dials until a way works or ``stop``; then ``connected(link, name)`` is called from its thread."""

    def __init__(self, route: Route, connected: Callable[[socket.socket, str], None]) -> None:
        self._route = route
        self._connected = connected
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._said = ""

    def begin(self, wait: float) -> None:
        """Dial, the first time after ``wait`` seconds."""
        self._thread = threading.Thread(target=self._run, args=(wait,), name="dialer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Twice is fine."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self, wait: float) -> None:
        pause = self._route.first
        aloud = time.monotonic() + SILENCE
        while not self._stopping.wait(wait):
            for name, dial in self._route.ways():
                if self._stopping.is_set():
                    return
                try:
                    link = dial()
                except OSError as exc:
                    if time.monotonic() >= aloud:
                        self._say(f"{name}: {exc.strerror or exc}")
                    continue
                self._connected(link, name)
                return
            wait = pause * (0.8 + os.urandom(1)[0] / 640)
            pause = min(pause * 2.0, self._route.longest)

    def _say(self, text: str) -> None:
        """Once, not at every try."""
        if text != self._said:
            self._said = text
            logger.info("no connection to the appliance yet; %s", text)
