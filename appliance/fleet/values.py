"""What each source of each driver last said, and the last hour of those that are numbers: in bounded memory."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from typing import Any

from msgspec import Struct

#: Seconds between two points of a history, and how many there are.
STEP, POINTS = 10.0, 360
#: Sources that are remembered; the one that was silent for longest goes first.
SOURCES = 5_000
#: Histories, of at most 6 kB each.
HISTORIES = 1_000
#: Bytes of text that are kept of a value.
LONGEST = 2_000

Source = tuple[str, str, str]  # agent, key of driver and config, source


class Last(Struct, frozen=True):
    """The newest of a source: Unix seconds."""

    value: Any
    kind: str
    time: float


class Values:
    """Written by the fleet's thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: OrderedDict[Source, Last] = OrderedDict()
        self._away: set[Source] = set()
        self._series: OrderedDict[Source, tuple[array[float], array[float]]] = OrderedDict()

    def note(self, source: Source, value: Any, kind: str, time: float) -> bool:
        """Remember what was said; false if something newer is known."""
        with self._lock:
            self._away.discard(source)
            known = self._last.get(source)
            if known is not None and known.time > time:
                return False
            self._last[source] = Last(_short(value), kind, time)
            self._last.move_to_end(source)
            if len(self._last) > SOURCES:
                self._last.popitem(last=False)
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._add(source, float(value), time)
        return True

    def _add(self, source: Source, value: float, time: float) -> None:
        times, values = self._series.setdefault(source, (array("d"), array("d")))
        self._series.move_to_end(source)
        if times and time // STEP == times[-1] // STEP:
            times[-1], values[-1] = time, value
            return
        times.append(time)
        values.append(value)
        if len(times) > POINTS:
            del times[0], values[0]
        if len(self._series) > HISTORIES:
            self._series.popitem(last=False)

    def presence(self, source: Source, kind: str) -> None:
        """A source is lost or gone, or was heard of otherwise."""
        with self._lock:
            if kind not in ("lost", "gone"):
                self._away.discard(source)
            elif len(self._away) < SOURCES:
                self._away.add(source)

    def away(self, source: Source) -> bool:
        """Whether the last that was heard of a source is that it is lost."""
        with self._lock:
            return source in self._away

    def last(self, source: Source) -> Last | None:
        with self._lock:
            return self._last.get(source)

    def history(self, source: Source) -> list[tuple[float, float]]:
        """``(time, value)``, oldest first."""
        with self._lock:
            times, values = self._series.get(source, (array("d"), array("d")))
            return list(zip(times, values, strict=True))

    def forget(self, agent: str) -> None:
        """An agent is gone for good."""
        with self._lock:
            self._away = {source for source in self._away if source[0] != agent}
            for kept in (self._last, self._series):
                for source in [source for source in kept if source[0] == agent]:
                    del kept[source]


def _short(value: Any) -> Any:
    """A value as it is shown: a long one is not kept whole."""
    text = value if isinstance(value, str) else None
    if text is not None and len(text) > LONGEST:
        return text[:LONGEST] + "…"
    if isinstance(value, dict | list) and len(str(value)) > LONGEST:
        return str(value)[:LONGEST] + "…"
    return value
