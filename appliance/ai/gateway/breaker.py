"""A circuit breaker: an upstream that does not answer is left alone for a while, then asked by one caller alone.

Closed lets everybody through. So many failures in a row open it; behind a pause, which doubles each time, one caller
is let through as the probe, and what becomes of that one closes it or opens it again.
"""

from __future__ import annotations

from appliance.contracts import NodeError

#: Failures in a row that open it; seconds of the first pause and of the longest.
FAILURES = 3
FIRST = 5.0
LONGEST = 300.0


class Breaker:
    """Of one upstream; moments are seconds of a monotonic clock."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._pause = FIRST
        self._closed_at = 0.0
        self._probing = False
        self._why = ""

    @property
    def open(self) -> bool:
        return self._failures >= FAILURES

    def admit(self, now: float) -> None:
        """Let a caller through, or raise ``NodeError`` that says when there will be another try."""
        if not self.open:
            return
        wait = self._closed_at - now
        if wait > 0 or self._probing:
            wait = max(wait, 1.0)
            message = f"{self._name} is left alone for another {wait:.0f} s, for it failed: {self._why}"
            raise NodeError(message, detail={"retry_after": wait, "breaker": "open"})
        self._probing = True

    def succeeded(self) -> None:
        """It works."""
        self._failures, self._pause, self._probing = 0, FIRST, False

    def failed(self, now: float, why: str) -> None:
        """It did not answer."""
        self._failures += 1
        self._why = why
        if self._probing:
            self._pause = min(LONGEST, self._pause * 2)
        self._probing = False
        if self.open:
            self._closed_at = now + self._pause

    def left(self) -> None:
        """A caller went away before there was anything to tell by; another may be the probe."""
        self._probing = False

    def view(self, now: float) -> str:
        """``closed``, ``open`` or ``probing``, for the health page."""
        if not self.open:
            return "closed"
        return "open" if now < self._closed_at else "probing"
