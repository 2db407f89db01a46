"""Have flows, values, people or settings changed? Asked with every request, read a few times a second."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from appliance.contracts import FlowError
from appliance.store.metadata import Store

logger = logging.getLogger(__name__)

#: Seconds for which an answer counts. A deploy by another process is noticed that much later.
PATIENCE = 0.25


class Changes:
    """The store's change counters, at most :data:`PATIENCE` old. ``clock``: monotonic seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._read_at = -1e9
        self._counters: dict[str, int] = {}

    def __getitem__(self, what: str) -> int:
        """How often ``deployments``, ``values``, ``people`` or ``settings`` have changed."""
        now = self._clock()
        if now - self._read_at > PATIENCE:
            try:
                self._counters = self._store.changes()
            except FlowError as exc:
                if not self._counters:
                    raise
                # With what was known last, requests are still answered as far as that goes.
                logger.debug("whether anything has changed cannot be told: %s", exc)
            self._read_at = now
        return self._counters.get(what, 0)

    def pair(self, first: str, second: str) -> tuple[int, int]:
        """Two counters of one moment."""
        return self[first], self._counters.get(second, 0)

    def forget(self, *_: Any) -> None:
        """This process has just changed something: look again at once."""
        self._read_at = -1e9
