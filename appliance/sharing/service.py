"""The shared service of a cluster: boxes for messages, token buckets and short-lived values, in Redis or in Postgres.

What lies here may be lost: the truth is in the database. A message whose loss would matter is found again by a
watchdog, a lost bucket is a full one, and a lost value makes a request that is sent again be worked on again.
"""

from __future__ import annotations

from typing import Protocol

from appliance.contracts import FlowError

#: Seconds for which a message lies in a box that nobody empties, and how many may lie there.
MESSAGE_AGE = 60.0
MAX_MESSAGES = 20_000
#: Seconds that one look into a box waits at most: then it shows whether the server is still there.
LONGEST_WAIT = 10.0


class ServiceAway(FlowError):
    """The cluster's Redis or Postgres does not answer."""

    id = "service-away"


class BoxFull(ServiceAway):
    """The receiver has not emptied its box for long."""


class Service(Protocol):
    """One connection to the shared service. Safe from any thread; every method raises ``ServiceAway``."""

    def clock(self) -> float:
        """Seconds on the service's clock, the same for all machines (to some milliseconds)."""

    def send(self, box: str, data: bytes) -> None:
        """Put a message into a box. Raises ``BoxFull``."""

    def receive(self, box: str, timeout: float) -> list[bytes]:
        """All messages of a box in the order of their coming; waits up to ``timeout`` seconds for the first.

        One thread empties a box.
        """

    def take(self, key: str, per_second: float, burst: float, cost: float) -> float:
        """Take from a token bucket; what is left in it, or if that is less than the cost: minus the seconds until
        there is enough (and nothing is taken)."""

    def put_new(self, key: str, value: bytes, age: float) -> bytes | None:
        """Set a value for ``age`` seconds unless there is one; then that one."""

    def put(self, key: str, value: bytes, age: float) -> None:
        """Set a value for ``age`` seconds."""

    def drop(self, key: str) -> None:
        """Forget a value."""

    def close(self) -> None:
        """Let go of the connections. Twice is fine; ``receive`` in another thread ends."""
