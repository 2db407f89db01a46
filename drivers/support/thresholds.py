"""Limits with hysteresis: a value that trembles about a limit makes one event, not a hundred."""

from __future__ import annotations

from typing import Literal

Zone = Literal["high", "low", "normal"]


class Limits:
    """Says when a value has been above ``above`` or below ``below`` for ``hold`` seconds, and when it is back.

    It is back once it is ``hysteresis`` inside the limit that it had passed.
    """

    def __init__(self, above: float | None, below: float | None, hysteresis: float, hold: float) -> None:
        self._above = above
        self._below = below
        self._hysteresis = hysteresis
        self._hold = hold
        self._since: float | None = None
        self._beyond: Zone = "normal"
        self.zone: Zone = "normal"

    def update(self, value: float, now: float) -> bool:
        """Take a reading of the moment ``now`` (monotonic seconds); whether the zone has changed."""
        seen = self._look(value)
        if seen == self.zone:
            self._since = None
            return False
        if seen != self._beyond or self._since is None:
            self._since, self._beyond = now, seen
        if seen != "normal" and now - self._since < self._hold:
            return False
        self.zone, self._since = seen, None
        return True

    def _look(self, value: float) -> Zone:
        # Whoever is out has to come farther in than the limit that the others have to pass.
        margin = self._hysteresis
        if self._above is not None and value > self._above - (margin if self.zone == "high" else 0):
            return "high"
        if self._below is not None and value < self._below + (margin if self.zone == "low" else 0):
            return "low"
        return "normal"
