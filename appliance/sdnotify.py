"""What a service says to systemd, and what systemd hands to it: sd_notify(3), sd_listen_fds(3). Nothing elsewhere.

A watchdog is fed only while something that is asked really works, so that a process that hangs is ended and started
again instead of looking alive.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

#: The first file descriptor that is handed over (sd_listen_fds(3)).
_FIRST = 3


def notify(*lines: str) -> bool:
    """Tell systemd, as ``READY=1``; False where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall("\n".join(lines).encode())
    except OSError:
        return False
    return True


def watchdog_seconds() -> float | None:
    """Seconds after which systemd takes this process for hanging; None if it does not watch it."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def listening_socket() -> int | None:
    """The one socket that systemd has opened for this process; None if there is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    os.set_inheritable(_FIRST, False)
    return _FIRST


class Life:
    """Says READY once ``alive()`` is true, then feeds the watchdog as long as it stays true. One thread.

    ``alive`` blocks no longer than ``patience`` seconds. Without a watchdog the thread ends after READY.
    """

    #: Looks within the time that systemd waits.
    looks = 4
    #: Seconds between two looks before the first true one.
    pace = 0.05

    def __init__(self, alive: Callable[[float], bool], status: str = "") -> None:
        self._alive = alive
        self._status = status
        self._stop = threading.Event()

    def start(self) -> Callable[[], None]:
        """Begin; returns the stop, which also says that this process is stopping."""
        if "NOTIFY_SOCKET" not in os.environ:
            return lambda: None
        thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        thread.start()

        def stop() -> None:
            self._stop.set()
            notify("STOPPING=1")
            thread.join(1.0)

        return stop

    def _run(self) -> None:
        limit = watchdog_seconds()
        patience = (limit or 60.0) / self.looks
        while not self._alive(patience):
            if self._stop.wait(self.pace):
                return
        notify("READY=1", *([f"STATUS={self._status}"] if self._status else []))
        while limit is not None and not self._stop.wait(limit / self.looks):
            if self._alive(patience):
                notify("WATCHDOG=1")
