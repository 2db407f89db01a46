"""Run ids: 63 bits that sort by time and name their shard.

41 bits of milliseconds since 2020, 6 bits of who made it (kernel, gateway …), 16 bits of sequence. As text 13
characters of Crockford's base32, which sort like the numbers (https://www.crockford.com/base32.html).
"""

from __future__ import annotations

import datetime
import threading

EPOCH_MS = 1_577_836_800_000
_SEQ_BITS, _WRITER_BITS = 16, 6
_LOW = _SEQ_BITS + _WRITER_BITS
#: 2**13 milliseconds.
SPAN_BITS = _LOW + 13
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_VALUES = {char: value for value, char in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
MAX_ID = (1 << 63) - 1
_LAST_MS = MAX_ID >> _LOW


class RunIds:
    """Makes ids that only grow, also when the clock is set back. Safe from any thread."""

    def __init__(self, writer: int, last: int = 0) -> None:
        if not 0 <= writer < 1 << _WRITER_BITS:
            raise ValueError("the writer's number has 6 bits")
        self._writer = writer
        # Behind the moment of the newest id: how far its sequence had come is not known.
        self._last_ms = (last >> _LOW) + 1 if last else 0
        self._seq = 0
        self._lock = threading.Lock()

    @property
    def last(self) -> int:
        """The newest id, or one of its moment; 0 before the first."""
        return self._last_ms << _LOW

    def next(self, now: float) -> int:
        """A new id for the moment ``now`` (Unix seconds); from 2089 on they only count up."""
        ms = min(int(now * 1000) - EPOCH_MS, _LAST_MS - 1)
        with self._lock:
            if ms > self._last_ms:
                self._last_ms, self._seq = ms, 0
            else:
                self._seq += 1
                if self._seq >> _SEQ_BITS:
                    self._last_ms, self._seq = self._last_ms + 1, 0
            return (self._last_ms << _LOW) | (self._writer << _SEQ_BITS) | self._seq


def to_text(number: int) -> str:
    """The 13 characters of an id."""
    pairs = _PAIRS
    return (
        _ALPHABET[number >> 60 & 31]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )


def from_text(text: str) -> int:
    """The number of an id's text. Raises ``ValueError``."""
    if len(text) != 13:
        raise ValueError(f"{text!r} is not a run id")
    number = 0
    for char in text.upper():
        if char not in _VALUES:
            raise ValueError(f"{text!r} is not a run id")
        number = number << 5 | _VALUES[char]
    if number > MAX_ID:
        raise ValueError(f"{text!r} is not a run id")
    return number


def moment(number: int) -> float:
    """Unix seconds of an id."""
    return ((number >> _LOW) + EPOCH_MS) / 1000


def first_of(when: float) -> int:
    """The smallest id of a moment (Unix seconds); moments before 2020 give 0, those after 2089 the largest id."""
    ms = min(max(0.0, when * 1000 - EPOCH_MS), float(_LAST_MS + 1))
    return min(int(ms) << _LOW, MAX_ID)


def span_of(number: int) -> int:
    """The span of about eight seconds that an id lies in; shards note which flows ran in which."""
    return number >> SPAN_BITS


def day_of(number: int) -> str:
    """The UTC day of an id, which is its shard's name: ``2026-11-20``."""
    return datetime.datetime.fromtimestamp(moment(number), datetime.UTC).strftime("%Y-%m-%d")
