"""Finds out which drivers can run on this machine: in a process of its own, since that loads all their libraries.

Run as ``python -m edge_agent.survey`` it prints one JSON object: each driver, and why it cannot run here, or nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

import msgspec

logger = logging.getLogger(__name__)

#: Seconds to wait before it begins: starting up is more urgent. And seconds that it may take.
DELAY, PATIENCE = 3.0, 60.0


class Survey:
    """``found`` is empty until it is known; ``known`` is called then."""

    def __init__(self, known: Callable[[], None]) -> None:
        self.found: dict[str, str] = {}
        self._known = known
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Find out, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="survey", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Twice is fine."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        if self._stopping.wait(DELAY):
            return
        import subprocess

        try:
            command = [sys.executable, "-m", __name__]
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
            self.found = msgspec.json.decode(done.stdout, type=dict[str, str])
        except (OSError, subprocess.SubprocessError, ValueError) as exc:
            logger.warning("which drivers this machine can have is not known: %s", exc)
            return
        self._known()


def look() -> dict[str, str]:
    """Every driver there is, and why it cannot run on this machine, or nothing."""
    from drivers.base import DriverError, find, names

    found: dict[str, str] = {}
    for name in names():
        try:
            found[name] = find(name).unavailable()
        except DriverError as exc:
            found[name] = exc.message
        except Exception as exc:
            found[name] = f"{type(exc).__name__}: {exc}"
    return found


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(look()).decode())
