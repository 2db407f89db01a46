"""The moments that a schedule names: cron lines, intervals, the sun. No clock is read here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import takewhile
from typing import Protocol

from cronsim import CronSim, CronSimError

from appliance.contracts import ConfigError
from appliance.triggers._sun import DAY, sun_time

#: Without a sunrise in so many days there is none (a year, and some days for the offset).
_SUNLESS = 370
_HOUR = 3600.0


class Slots(Protocol):
    """A series of moments in Unix seconds, the same however often and wherever one begins to count."""

    def after(self, moment: float) -> Iterator[float]:
        """All that are later than a moment, in order."""


class Cron:
    """A cron line in a time zone, DST as Debian's cron does it: a time that is skipped runs right after the gap,
    a time that comes twice runs once, and lines with a star for the hour simply follow the clock.
    """

    def __init__(self, line: str, zone: tzinfo) -> None:
        self._line = line
        self._zone = zone
        try:
            next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)), None)
        except CronSimError as exc:
            raise ConfigError(f"cron: {line!r} is not a cron line: {exc}; `0 7 * * MON-FRI` is one") from None

    def after(self, moment: float) -> Iterator[float]:
        last = moment
        for found in CronSim(self._line, datetime.fromtimestamp(math.floor(moment), self._zone)):
            slot = found.timestamp()
            # Inside a repeated hour the first pass of it may be offered again, and a gap maps two times to one.
            if slot > last:
                last = slot
                yield slot


class Every:
    """Every so many seconds, counted from an anchor."""

    def __init__(self, period: float, anchor: float) -> None:
        self._period = period
        self._anchor = anchor

    def after(self, moment: float) -> Iterator[float]:
        number = math.floor((moment - self._anchor) / self._period)
        while True:
            slot = self._anchor + number * self._period
            if slot > moment:
                yield slot
            number += 1


class Sun:
    """Each sunrise or sunset at a place, moved by an offset in seconds. Polar days and nights are left out."""

    def __init__(self, rising: bool, latitude: float, longitude: float, offset: float) -> None:
        self._rising = rising
        self._latitude = latitude
        self._longitude = longitude
        self._offset = offset

    def after(self, moment: float) -> Iterator[float]:
        day = math.floor((moment - self._offset) / DAY) - 2
        missing = 0
        while missing < _SUNLESS:
            found = sun_time(day, self._latitude, self._longitude, self._rising)
            day, missing = day + 1, missing + 1
            if found is not None:
                missing = 0
                slot = float(round(found + self._offset))
                if slot > moment:
                    yield slot


def due(slots: Slots, since: float, now: float, most: int) -> list[float]:
    """The newest ``most`` slots later than ``since`` and not later than ``now``, oldest first.

    Looked for in windows that grow from now backwards, so that a year's absence costs no year's counting.
    """
    window = _HOUR
    while True:
        start = max(since, now - window)
        found = deque(takewhile(lambda slot: slot <= now, slots.after(start)), maxlen=most)
        if start <= since or len(found) == most:
            return list(found)
        window *= 8
