"""Looks once a day, and a minute after the start, whether the installed files are as they were installed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from appliance import integrity
from appliance.integrity import Checked

logger = logging.getLogger(__name__)

_DAY = 86_400.0


class Watch:
    """``look`` once a minute; the work is done on a thread of low priority. ``clock`` is monotonic."""

    def __init__(self, release: Path, policy: Callable[[], str], clock: Callable[[], float]) -> None:
        self._release = release
        self._policy = policy
        self._clock = clock
        self._last: float | None = None
        self._thread: threading.Thread | None = None
        self._found = Checked(sealed=(release / integrity.LIST).exists())

    def look(self) -> None:
        """Begin, if it is time."""
        now = self._clock()
        busy = self._thread is not None and self._thread.is_alive()
        if busy or (self._last is not None and now - self._last < _DAY) or self._policy() == "ignore":
            return
        self._last = now
        if (self._release / integrity.LIST).exists():
            self._thread = threading.Thread(target=self._check, name="integrity", daemon=True)
            self._thread.start()

    def _check(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
        self._found = integrity.check(self._release)
        if not self._found.well:
            logger.error("the installed files are not as they were installed: %s", self._found.text())

    def stop(self) -> None:
        """Wait for a look that is going on. Twice is fine."""
        if self._thread is not None:
            self._thread.join(timeout=30)

    def view(self) -> dict[str, Any]:
        """For the health page."""
        return {**msgspec.to_builtins(self._found), "policy": self._policy(), "text": self._found.text()}
