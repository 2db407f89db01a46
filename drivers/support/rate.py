"""How many observations a second a source may make: a bucket of tokens, and the count of what was left out."""

from __future__ import annotations

from collections.abc import Callable


class Bound:
    """Lets ``per_second`` through, and as many at once after a quiet second. For one thread."""

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._rate = per_second
        self._clock = monotonic
        self._tokens = max(1.0, per_second)
        self._at = monotonic()
        self._left_out = 0
        self._since = 0.0

    def take(self) -> bool:
        """Whether one more may go out now; if not, it is counted as left out."""
        if self.afford():
            return True
        self.leave_out()
        return False

    def afford(self) -> bool:
        """The same without counting, for what waits for its turn."""
        now = self._clock()
        self._tokens = min(max(1.0, self._rate), self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def leave_out(self, count: int = 1) -> None:
        """Count what never came this far."""
        if count > 0:
            if not self._left_out:
                self._since = self._clock()
            self._left_out += count

    @property
    def due(self) -> bool:
        """Whether something was left out that has to be reported by now: at most once a second."""
        return self._left_out > 0 and self._clock() - self._since >= 1.0

    @property
    def pending(self) -> bool:
        return self._left_out > 0

    def report(self) -> int:
        """How many were left out since the last report."""
        count, self._left_out = self._left_out, 0
        return count
