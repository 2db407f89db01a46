"""Backups by themselves: looks once a minute whether one is due, and has the command line make it.

In a process of its own: it takes memory and a core for a while, may hang in a dead network disk, and can be ended.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from appliance.contracts import Busy
from appliance.store.backup_log import due, read_state
from appliance.store.settings import Settings

logger = logging.getLogger(__name__)

_PATIENCE = 10.0


class Backups:
    """At most one backup at a time. ``stop`` ends it."""

    def __init__(self, data: Path, load_settings: Callable[[], Settings], now: Callable[[], float]) -> None:
        self._data = data
        self._load_settings = load_settings
        self._now = now
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def look(self) -> None:
        """Begin one if it is due."""
        if not self.running() and due(self._load_settings(), read_state(self._data), self._now()):
            self.begin()

    def begin(self) -> None:
        """Begin one now. Raises ``Busy`` if one is being made."""
        with self._lock:
            if self._stopped or (self._child is not None and self._child.poll() is None):
                raise Busy("a backup is being made", retry_after=30.0)
            command = [sys.executable, "-m", "appliance.cli", "backup", "--by-settings", "--data", str(self._data)]
            logger.info("making a backup")
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def running(self) -> bool:
        """Whether one is being made; buries the one that was."""
        with self._lock:
            return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """End the one that is being made; its half file is deleted by the next. Twice is fine."""
        with self._lock:
            self._stopped = True
            child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def view(self) -> dict[str, Any]:
        """For the health page."""
        settings = self._load_settings()
        state: dict[str, Any] = msgspec.to_builtins(read_state(self._data))
        return {"running": self.running(), "days": settings.backup_days, "to": settings.backup_to, **state}
