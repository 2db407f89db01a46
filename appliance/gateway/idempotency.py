"""``Idempotency-Key``: a request that creates something and is sent again gets the first one's answer.

Kept in memory, bounded, for a day; a restart forgets. What starts a run does not need this: its key is kept on
disk with the run. An answer may hold a token that is shown once, which is a reason more to write nothing down.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from msgspec import Struct

from appliance.contracts import FlowError

DAY = 86400.0
MAX_KEYS = 2_000
MAX_BYTES = 4_000_000
LONGEST_KEY = 200


class InProgress(FlowError):
    """The first request with this key has not been answered yet."""

    id = "in-progress"


class KeyReused(FlowError):
    """The key came before with another request."""

    id = "key-reused"
    retryable = False


class Answer(Struct, frozen=True):
    """An answer to be given again."""

    status: int
    data: bytes
    headers: Mapping[str, str]


class _Kept(Struct):
    digest: bytes
    since: float
    answer: Answer | None = None


class Remembered:
    """Answers by key. Safe from any thread. ``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def begin(self, key: str, digest: bytes) -> Answer | None:
        """The answer that was given already, or None: then end with :meth:`keep` or :meth:`drop`.

        ``digest`` is of the request. Raises ``InProgress``, ``KeyReused``.
        """
        with self._lock:
            self._forget()
            kept = self._kept.get(key)
            if kept is None:
                self._kept[key] = _Kept(digest, self._clock())
                return None
            if kept.digest != digest:
                raise KeyReused("this Idempotency-Key came before with another request; use a new one")
            if kept.answer is None:
                raise InProgress("the first request with this Idempotency-Key is still being worked on")
            return kept.answer

    def keep(self, key: str, answer: Answer) -> None:
        """The request was answered."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                kept.answer = answer
                self._bytes += len(answer.data)

    def drop(self, key: str) -> None:
        """The request failed; with the same key it may be tried again."""
        with self._lock:
            self._remove(key)

    def _forget(self) -> None:
        old = self._clock() - DAY
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if len(self._kept) < MAX_KEYS and self._bytes < MAX_BYTES and kept.since > old:
                return
            self._remove(key)

    def _remove(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None and kept.answer is not None:
            self._bytes -= len(kept.answer.data)
