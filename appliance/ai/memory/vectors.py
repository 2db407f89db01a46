"""Vectors of a workspace in memory, compared with a query's in one multiplication. Loads numpy when first used.

20,000 vectors of 384 numbers take 31 MB; what nobody has asked for in a while is let go of.
"""

from __future__ import annotations

import importlib.util
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

from appliance.ai.memory.store import EpisodeStore

#: Seconds after which vectors that nobody asked for are let go of.
IDLE = 600.0
#: How many more rows a table is made for, so that each new episode does not copy all of it.
_SPARE = 1024


def usable() -> bool:
    """numpy is installed: it comes with ``flowork[models]``."""
    return importlib.util.find_spec("numpy") is not None


def pack(vector: list[float]) -> bytes:
    """A vector of length 1 as it is kept."""
    import numpy as np

    return np.asarray(vector, dtype="<f4").tobytes()


class Table:
    """The vectors of one workspace and model: rows that grow, and that are blanked when forgotten."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.rows: Any = None
        self.used = 0.0

    def extend(self, found: list[tuple[int, bytes]]) -> None:
        """Add vectors; those of another length than the first are left out (another model of the same name)."""
        import numpy as np

        if not found:
            return
        size = self.rows.shape[1] if self.rows is not None else len(found[0][1]) // 4
        fit = [(number, raw) for number, raw in found if len(raw) == size * 4]
        if self.rows is None or len(self.ids) + len(fit) > len(self.rows):
            grown = np.empty((len(self.ids) + len(fit) + _SPARE, size), dtype=np.float32)
            if self.rows is not None:
                grown[: len(self.ids)] = self.rows[: len(self.ids)]
            self.rows = grown
        joined = np.frombuffer(b"".join(raw for _, raw in fit), dtype="<f4").reshape(len(fit), size)
        self.rows[len(self.ids) : len(self.ids) + len(fit)] = joined
        self.ids += [number for number, _ in fit]

    def blank(self, gone: set[int]) -> None:
        """Forgotten episodes are like nothing any more."""
        for place, number in enumerate(self.ids):
            if number in gone:
                self.rows[place] = 0.0

    def compare(self, vector: list[float], count: int, also: Iterable[int]) -> dict[int, float]:
        """By id the cosine of the ``count`` nearest, and of those in ``also`` that are here (vectors have length 1)."""
        import numpy as np

        if self.rows is None or not self.ids or self.rows.shape[1] != len(vector):
            return {}
        cosines = self.rows[: len(self.ids)] @ np.asarray(vector, dtype=np.float32)
        count = min(count, len(cosines))
        places = set(np.argpartition(cosines, len(cosines) - count)[len(cosines) - count :].tolist())
        # Ids only ever grow, so the list is sorted.
        for number in also:
            place = bisect_left(self.ids, number)
            if place < len(self.ids) and self.ids[place] == number:
                places.add(place)
        return {self.ids[place]: float(cosines[place]) for place in places}


class Tables:
    """The tables that are in use. ``clock``: monotonic seconds. Safe from any thread."""

    def __init__(self, store: EpisodeStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._tables: dict[tuple[str, str], Table] = {}
        self._lock = threading.Lock()

    def compare(
        self, workspace: str, model: str, vector: list[float], count: int, also: Iterable[int]
    ) -> dict[int, float]:
        """See :meth:`Table.compare`; reads what is new in the store first."""
        with self._lock:
            now = self._clock()
            self._tables = {key: table for key, table in self._tables.items() if now - table.used < IDLE}
            table = self._tables.setdefault((workspace, model), Table())
            table.used = now
            table.extend(self._store.vectors(workspace, model, table.ids[-1] if table.ids else 0))
            return table.compare(vector, count, also)

    def forget(self, ids: Iterable[int]) -> None:
        """These episodes are gone."""
        gone = set(ids)
        with self._lock:
            for table in self._tables.values():
                table.blank(gone)

    def added(self, oldest: int) -> None:
        """Episodes from this id on have got vectors: a table that is past it is read anew."""
        with self._lock:
            self._tables = {
                key: table for key, table in self._tables.items() if not table.ids or table.ids[-1] < oldest
            }
