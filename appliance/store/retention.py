"""How long history is kept: by age and by size, per engine and per flow; failed runs longer than good ones.

Only days that are over are touched; runs under way are always kept. Here is what is the same wherever the runs are;
``shard_retention.py`` works on files, ``postgres/retention.py`` on partitions. ``places.py`` chooses.
"""

from __future__ import annotations

import calendar
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from appliance.store.runids import first_of

DAY = 86_400.0
#: A day is thinned only if at least this share of its runs goes: rewriting costs the card more than keeping.
WORTH = 0.3
#: Runs that may go at all, and of these the good ones.
ENDED, GOOD = "state >= 10", "(state = 10 OR state = 14)"


class Rule(Struct, frozen=True):
    """Days for which good and other runs are kept."""

    good: float
    other: float


class Policy(Struct, frozen=True):
    """The engine's rule, the rules of single flows (by number), and the bound of all history in bytes.

    ``parents`` are runs under way whose children are kept: after a crash they are counted again.
    """

    engine: Rule
    flows: Mapping[int, Rule]
    max_bytes: int
    parents: frozenset[int] = frozenset()


class Swept(Struct):
    """What a sweep did."""

    deleted: list[str] = []
    rewritten: list[str] = []
    freed: int = 0
    blobs: set[str] = set()


#: Carries out a file change at a moment when nobody writes to the day; False if the day was written meanwhile.
Exchange = Callable[[str, int, Callable[[], None]], bool]


class Retention(ABC):
    """Applies a policy. Runs on a maintenance thread."""

    @abstractmethod
    def sweep(self, policy: Policy, now: float) -> Swept:
        """Apply age, then size. Blobs that lost a user are named; whether they have others is for the caller."""

    @abstractmethod
    def blobs_in_use(self, digests: Iterable[str]) -> set[str]:
        """Of these blobs, those that a kept run still uses."""

    @abstractmethod
    def total_bytes(self) -> int:
        """What all days take on disk."""


def age(day: str, now: float) -> float:
    """Days since the youngest run that a day can hold."""
    return (now - end_of(day)) / DAY


def end_of(day: str) -> float:
    return calendar.timegm(time.strptime(day, "%Y-%m-%d")) + DAY


def expired(policy: Policy, now: float, mark: str = "?") -> tuple[str, list[float]]:
    """The SQL condition of runs that have had their time, and its values; ``mark`` is the driver's sign for one."""
    parts: list[str] = []
    values: list[float] = []

    def add(who: str, rule: Rule) -> None:
        good, other = f"(state IN (10, 14) AND id < {mark})", f"(state NOT IN (10, 14) AND id < {mark})"
        parts.append(f"({who} AND ({good} OR {other}))")
        values.extend((first_of(now - rule.good * DAY), first_of(now - rule.other * DAY)))

    for flow, rule in policy.flows.items():
        add(f"flow = {int(flow)}", rule)
    # No flow has the number 0: without rules of single flows the list must not be empty.
    others = ", ".join(str(int(flow)) for flow in policy.flows) or "0"
    add(f"flow NOT IN ({others})", policy.engine)
    return " OR ".join(parts), values


def youngest(policy: Policy) -> float:
    """Days before which no rule lets anything go."""
    return min(min(rule.good, rule.other) for rule in (policy.engine, *policy.flows.values()))
