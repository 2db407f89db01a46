"""Numbers used once: what was seen is remembered until it would have expired anyhow."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from typing import Protocol

from appliance.contracts import Busy


class NonceRepo(Protocol):
    """Remembers used nonces. Several gateways must share one; a single process can use :class:`MemoryNonces`."""

    def use(self, nonce: str, issued: float, expires: float) -> bool:
        """True for exactly one caller per nonce (atomic). ``issued`` and ``expires`` in Unix seconds.

        May forget the nonce after ``expires``, and then answers False for all that had expired by then, even
        if the clock is set back. Raises ``Busy`` rather than forget one earlier.
        """


class MemoryNonces:
    """A :class:`NonceRepo` for one process; bounded, thread-safe.

    What was issued before this process began may have been used already in the life before, so it is refused.
    """

    def __init__(self, now: Callable[[], float] = time.time, capacity: int = 100_000) -> None:
        self._now = now
        self._capacity = capacity
        self._born = int(now() * 1000) / 1000
        self._forgotten = 0.0
        self._used: set[str] = set()
        self._order: list[tuple[float, str]] = []
        self._lock = threading.Lock()

    def use(self, nonce: str, issued: float, expires: float) -> bool:
        """See :meth:`NonceRepo.use`."""
        with self._lock:
            self._forget(self._now())
            if nonce in self._used or issued < self._born or expires <= self._forgotten:
                return False
            if len(self._used) >= self._capacity:
                wait = max(1.0, self._order[0][0] - self._now())
                raise Busy("too many signed messages at once", retry_after=wait)
            self._used.add(nonce)
            heapq.heappush(self._order, (expires, nonce))
            return True

    def _forget(self, now: float) -> None:
        while self._order and self._order[0][0] <= now:
            expires, nonce = heapq.heappop(self._order)
            self._used.discard(nonce)
            self._forgotten = max(self._forgotten, expires)
