"""The states of a run, as numbers in the journal and as names everywhere else."""

from __future__ import annotations

from enum import IntEnum


class RunState(IntEnum):
    """Below 10 a run is under way; ``DEAD`` is an event that no run could be made of."""

    QUEUED = 0
    RUNNING = 1
    WAITING = 2
    SUCCEEDED = 10
    FAILED = 11
    DEAD = 12
    CANCELLED = 13
    SKIPPED = 14

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def under_way(self) -> bool:
        return self < RunState.SUCCEEDED


class Letter(IntEnum):
    """Where a run stands on the dead-letter list."""

    NONE = 0
    OPEN = 1
    REPLAYED = 2
    DISCARDED = 3
