"""Answers that cost something, kept for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """What ``ask`` answers, at most ``age`` seconds old.

    Only one caller asks anew at a time; the others get what there is, so that a slow answer holds up one
    thread and not all of them. ``clock``: monotonic seconds.
    """

    def __init__(self, ask: Callable[[], T], age: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._age = age
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: tuple[float, T] | None = None

    def __call__(self) -> T:
        kept = self._answer
        if kept is not None and self._clock() - kept[0] <= self._age:
            return kept[1]
        if not self._lock.acquire(blocking=kept is None):
            assert kept is not None
            return kept[1]
        try:
            fresh = self._answer
            if fresh is None or fresh is kept:
                fresh = self._answer = (self._clock(), self._ask())
            return fresh[1]
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Ask anew the next time."""
        self._answer = None
