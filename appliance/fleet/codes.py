"""The pairings that are open: a short code each, good for one machine, some time, and few wrong guesses."""

from __future__ import annotations

import logging
import threading
import time
from typing import Generic, TypeVar

from msgspec import Struct

from appliance.contracts import Busy, ConfigError
from edge_agent.protocol import pairing

logger = logging.getLogger(__name__)

#: Wrong codes until a pairing ends.
GUESSES = 5
#: Pairings that may be open.
OPEN = 20
#: Minutes for which a pairing is open, at most and if nothing is said.
LONGEST, MINUTES = 7 * 1440.0, 30.0
T = TypeVar("T")


class OpenPairing(Struct, Generic[T]):
    """A code that was shown and not used yet; ``expires`` is monotonic, ``about`` what is agreed with it."""

    name: str
    code: str
    expires: float
    about: T
    guesses: int = 0


class Codes(Generic[T]):
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, OpenPairing[T]] = {}

    def new(self, name: str, minutes: float, about: T) -> OpenPairing[T]:
        """A new code; an older one of the same name is worth nothing any more. Raises ``ConfigError``, ``Busy``."""
        if not 0 < minutes <= LONGEST:
            raise ConfigError(f"a pairing may be open for up to {LONGEST / 1440:g} days, not {minutes:g} minutes")
        with self._lock:
            self._expire()
            if len(self._open) >= OPEN:
                raise Busy(f"{OPEN} pairings are open already", retry_after=60.0)
            self._open = {number: each for number, each in self._open.items() if each.name != name}
            number = next(str(each) for each in range(1, OPEN + 2) if str(each) not in self._open)
            made = OpenPairing(name, pairing.new_code(int(number)), time.monotonic() + minutes * 60, about)
            self._open[number] = made
        return made

    def all(self) -> list[OpenPairing[T]]:
        """Those that are open."""
        with self._lock:
            self._expire()
            return list(self._open.values())

    def end(self, name: str) -> bool:
        """End one that is open."""
        with self._lock:
            before = len(self._open)
            self._open = {number: each for number, each in self._open.items() if each.name != name}
            return len(self._open) != before

    def guess(self, number: str) -> OpenPairing[T] | None:
        """The one that a visitor means, who is about to show whether it knows the code."""
        with self._lock:
            self._expire()
            mine = self._open.get(number)
            if mine is not None:
                mine.guesses += 1  # counted before it is known to be right: so many tries at once are no way around
                if mine.guesses > GUESSES:
                    del self._open[number]
                    logger.warning("the pairing of %s has ended: its code was guessed at too often", mine.name)
                    mine = None
        return mine

    def take(self, number: str, mine: OpenPairing[T]) -> bool:
        """It knew the code: the pairing is its own, if nobody was quicker."""
        with self._lock:
            if self._open.get(number) is not mine:
                return False
            del self._open[number]
        return True

    def _expire(self) -> None:
        now = time.monotonic()
        self._open = {number: each for number, each in self._open.items() if each.expires > now}
