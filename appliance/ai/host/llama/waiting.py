"""Who is next: a bounded queue with priorities in which nobody waits for ever. Pure; the caller brings the time."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

#: Seconds of waiting that weigh as much as one step of priority.
PATIENCE = 30.0


class Waiter(Protocol):
    """What can wait: ``submitted`` is in seconds on the clock that ``first`` is asked with."""

    priority: int
    submitted: float


W = TypeVar("W", bound=Waiter)


class Waiting(Generic[W]):
    """At most ``bound`` waiters. Higher priority goes first; equal ones in the order of their coming."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._waiters: list[W] = []

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def full(self) -> bool:
        """Whether nobody more finds room."""
        return len(self._waiters) >= self.bound

    def add(self, waiter: W) -> None:
        """At the end of the line; the caller has looked at ``full``."""
        self._waiters.append(waiter)

    def first(self, now: float) -> W | None:
        """Who is next, still in line."""
        return max(
            self._waiters,
            # max takes the first of equals, and that is the one who came first.
            key=lambda waiter: waiter.priority + (now - waiter.submitted) // PATIENCE,
            default=None,
        )

    def remove(self, waiter: W) -> None:
        """It goes, served or not."""
        self._waiters.remove(waiter)

    def everyone(self) -> list[W]:
        """All who wait."""
        return list(self._waiters)
