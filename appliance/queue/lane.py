"""The memory lane: wake-ups inside the consumer's own process, at no disk write.

The kernel tells itself "there are runs ready" hundreds of times a second. What is ready stands in the
journal, so such a wake-up may be lost with the process, and one that is pending says all that a second
one would say.
"""

from __future__ import annotations

import heapq
import threading
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class MemoryLane(Generic[T]):
    """A priority queue (higher first, the same in order) that holds each key once.

    It takes items only between :meth:`open` and :meth:`close`: while somebody is there to take them out.
    All methods are safe from any thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, bytes]] = []
        self._pending: dict[bytes, tuple[float, T]] = {}
        self._order = count()
        self._open = False

    def open(self) -> None:
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Drop what is pending and end every :meth:`get`. Closing twice is fine."""
        with self._changed:
            self._open = False
            self._heap.clear()
            self._pending.clear()
            self._changed.notify_all()

    def put(self, key: bytes, item: T, priority: float = 0) -> bool:
        """Add ``item``; False if the lane is closed. A pending one of this key stays, at the higher priority."""
        with self._changed:
            if not self._open:
                return False
            pending = self._pending.get(key)
            if pending is not None and pending[0] >= priority:
                return True
            # A heap entry whose priority is not the pending one's is stale; get() passes over it.
            self._pending[key] = (priority, item)
            heapq.heappush(self._heap, (-priority, next(self._order), key))
            self._changed.notify()
        return True

    def get(self) -> T | None:
        """Take the first item, waiting for one; None when the lane is closed."""
        with self._changed:
            while self._open:
                while self._heap:
                    negative, _, key = heapq.heappop(self._heap)
                    pending = self._pending.get(key)
                    if pending is not None and pending[0] == -negative:
                        del self._pending[key]
                        return pending[1]
                self._changed.wait()
        return None
