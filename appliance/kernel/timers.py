"""When something is due: one heap, one thread that sleeps until the earliest, and clock jumps noticed.

Durations count on the monotonic clock. A wall-clock moment is turned into a monotonic one when it is set, and
again for all when the system clock turns out to have been moved.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

Due = Callable[[], None]
JUMP = 2.0
LONGEST_SLEEP = 30.0


class Timers:
    """Callbacks at moments. ``due`` is called by the engine thread; setting is safe from any thread."""

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float], ring: Callable[[], None]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._ring = ring
        self._heap: list[tuple[float, int, float | None, Due]] = []
        self._cancelled: set[int] = set()
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._offset = wall() - monotonic()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ring when something is due."""
        self._thread = threading.Thread(target=self._watch, name="timers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Twice is fine."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def after(self, delay: float, due: Due) -> int:
        """Call in ``delay`` seconds; returns a number for :meth:`cancel`."""
        return self._add(self._monotonic() + delay, None, due)

    def at(self, moment: float, due: Due) -> int:
        """Call at a wall-clock moment (Unix seconds)."""
        return self._add(moment - self._offset, moment, due)

    def _add(self, when: float, moment: float | None, due: Due) -> int:
        number = next(self._numbers)
        with self._changed:
            heapq.heappush(self._heap, (when, number, moment, due))
            if self._heap[0][1] == number:
                self._changed.notify()
        return number

    def cancel(self, number: int) -> None:
        """Forget a timer; one that has fired or does not exist is fine."""
        with self._changed:
            self._cancelled.add(number)
            if len(self._cancelled) > 64 and len(self._cancelled) * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[1] not in self._cancelled]
                heapq.heapify(self._heap)
                self._cancelled.clear()

    def fire(self) -> int:
        """Call what is due; returns how many."""
        if not self._heap:
            return 0
        now = self._monotonic()
        due: list[Due] = []
        with self._changed:
            while self._heap and self._heap[0][0] <= now:
                _, number, _, function = heapq.heappop(self._heap)
                if number in self._cancelled:
                    self._cancelled.discard(number)
                else:
                    due.append(function)
        for function in due:
            try:
                function()
            except Exception:
                logger.exception("something that was due failed")
        return len(due)

    def __len__(self) -> int:
        return len(self._heap)

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                self._follow_clock()
                now = self._monotonic()
                wait = min(self._heap[0][0] - now, LONGEST_SLEEP) if self._heap else LONGEST_SLEEP
                if wait > 0:
                    self._changed.wait(wait)
                    continue
            self._ring()
            with self._changed:
                # The engine takes what is due; do not ring faster than it can answer.
                self._changed.wait(0.005)

    def _follow_clock(self) -> None:
        offset = self._wall() - self._monotonic()
        if abs(offset - self._offset) < JUMP:
            return
        self._offset = offset
        self._heap = [
            (when if moment is None else moment - offset, number, moment, due)
            for when, number, moment, due in self._heap
        ]
        heapq.heapify(self._heap)
