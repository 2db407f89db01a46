"""Counts of what the gateway answered, for the metrics."""

from __future__ import annotations

import threading
from collections import Counter


class Traffic:
    """Answers by noun and class of status. Safe from any thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def count(self, noun: str, status: int) -> None:
        """One more answer."""
        with self._lock:
            self._counts[noun, f"{status // 100}xx"] += 1

    def counts(self) -> dict[tuple[str, str], int]:
        """All so far, by noun and class."""
        with self._lock:
            return dict(self._counts)
