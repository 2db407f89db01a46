"""Reading runs from the shards. Never writes.

Any process may read while the kernel writes. A list walks the day shards from the newest. A shard that cannot be read
is left out and named (``damaged``): the other days are shown.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance.engine.states import RunState
from appliance.store import shards
from appliance.store.history import (
    HEAD_COLUMNS,
    History,
    RunDetail,
    RunFilter,
    RunHead,
    RunPage,
    conditions,
    detail_of,
    event_view,
    head_of,
    span_of_filter,
)
from appliance.store.journal import RUN_COLUMNS, RunRow
from appliance.store.runids import MAX_ID, SPAN_BITS, day_of, first_of, span_of
from appliance.store.shard_journal import chunks_of
from appliance.store.shards import total_bytes

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Runs found in one shard, rows that may still be looked at, the id of the last one that was.
_Found = tuple[list[RunHead], int, int | None]


class ShardHistory(History):
    """The shards, open for reading. Safe from any thread; each has its own connections."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self.damaged = {}

    def close(self) -> None:
        with self._lock:
            while self._all:
                self._all.pop().close()

    def _reader(self, day: str) -> sqlite3.Connection | None:
        """This thread's connection to a day; a file that was rewritten since is opened anew."""
        path = shards.shard_path(self._data, day)
        kept: dict[str, tuple[sqlite3.Connection, int]] | None = getattr(self._local, "open", None)
        if kept is None:
            kept = self._local.open = {}
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        found = kept.get(day)
        if found is not None and found[1] == inode:
            return found[0]
        if found is not None:
            self._drop(kept.pop(day)[0])
        if not inode:
            return None
        while len(kept) >= 4:
            self._drop(kept.pop(min(kept))[0])
        connection = shards.open_reader(path)
        kept[day] = (connection, inode)
        with self._lock:
            self._all.append(connection)
        return connection

    def _on(self, day: str, read: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        """What ``read`` finds in a day; ``nothing`` if there is no such shard or it cannot be read."""
        try:
            connection = self._reader(day)
            found = nothing if connection is None else read(connection)
        except sqlite3.Error as exc:
            if self.damaged.get(day) != str(exc):
                logger.error("runs/%s.db cannot be read: %s", day, exc)
            self.damaged[day] = str(exc)
            found_open = getattr(self._local, "open", {}).pop(day, None)
            if found_open is not None:
                self._drop(found_open[0])
            return nothing
        self.damaged.pop(day, None)
        return found

    def _drop(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if connection in self._all:
                self._all.remove(connection)
        connection.close()

    def page(self, wanted: RunFilter, before: int | None = None, limit: int = 100) -> RunPage:
        lower, upper = span_of_filter(wanted, before)
        items: list[RunHead] = []
        scanned = self.scan
        newest, oldest = day_of(upper), day_of(lower)
        days = [day for day in shards.days(self._data) if oldest <= day <= newest]
        cursor: int | None = None
        for day in days:
            left, scan = limit - len(items), scanned
            read = partial(self._page_of, wanted=wanted, lower=lower, upper=upper, limit=left, scan=scan)
            nothing: _Found = ([], scan, None)
            rows, scanned, cursor = self._on(day, read, nothing)
            items += rows
            if len(items) >= limit:
                cursor = items[-1].id
                break
            if scanned <= 0:
                break
            cursor = None
        return RunPage(items, cursor, tuple(day for day in days if day in self.damaged))

    def _page_of(
        self, connection: sqlite3.Connection, wanted: RunFilter, lower: int, upper: int, limit: int, scan: int
    ) -> _Found:
        if wanted.flows and not wanted.text:
            return self._page_of_flows(connection, wanted, lower, upper, limit), scan, None
        where, values = conditions(wanted, lower, upper)
        if not wanted.text:
            sql = f"SELECT {HEAD_COLUMNS} FROM run WHERE {where} ORDER BY id DESC LIMIT ?"
            return [head_of(row) for row in connection.execute(sql, [*values, limit])], scan, None
        needle = wanted.text.encode()
        columns = f"{HEAD_COLUMNS}, instr(event, ?) + instr(steps, ?) + instr(coalesce(error, ''), ?)"
        sql = f"SELECT {columns} FROM run WHERE {where} ORDER BY id DESC LIMIT ?"
        found: list[RunHead] = []
        last: int | None = None
        for row in connection.execute(sql, [needle, needle, needle, *values, scan]):
            scan -= 1
            last = row[0]
            if row[-1] or self._in_chunks(connection, row[0], needle):
                found.append(head_of(row[:-1]))
                if len(found) >= limit:
                    break
        return found, scan, last

    def _page_of_flows(
        self, connection: sqlite3.Connection, wanted: RunFilter, lower: int, upper: int, limit: int
    ) -> list[RunHead]:
        """The runs of some flows, looked for where these ran (see ``flow_span`` in the shards)."""
        marks = ", ".join("?" * len(wanted.flows))
        sql = f"SELECT DISTINCT span FROM flow_span WHERE flow IN ({marks}) AND span BETWEEN ? AND ? ORDER BY span DESC"
        spans = connection.execute(sql, [*wanted.flows, span_of(lower), span_of(upper)]).fetchall()
        found: list[RunHead] = []
        for (span,) in spans:
            first, behind = max(lower, span << SPAN_BITS), min(upper, (span + 1) << SPAN_BITS)
            where, values = conditions(wanted, first, behind)
            sql = f"SELECT {HEAD_COLUMNS} FROM run WHERE {where} ORDER BY id DESC LIMIT ?"
            found += [head_of(row) for row in connection.execute(sql, [*values, limit - len(found)])]
            if len(found) >= limit:
                break
        return found

    def _in_chunks(self, connection: sqlite3.Connection, run: int, needle: bytes) -> bool:
        sql = "SELECT 1 FROM chunk WHERE run = ? AND instr(data, ?) LIMIT 1"
        return connection.execute(sql, (run, needle)).fetchone() is not None

    def head(self, run: int) -> RunHead | None:
        sql = f"SELECT {HEAD_COLUMNS} FROM run WHERE id = ?"
        row = self._on(day_of(run), lambda one: one.execute(sql, (run,)).fetchone(), None)
        return head_of(row) if row else None

    def detail(self, run: int) -> RunDetail | None:
        day = day_of(run)
        try:
            connection = self._reader(day)
            return None if connection is None else _detail(connection, run)
        except (sqlite3.Error, msgspec.DecodeError) as exc:
            raise shards.StoreFailure(f"the run cannot be read: runs/{day}.db is damaged ({exc})") from exc

    def event(self, run: int) -> dict[str, Any] | None:
        sql = "SELECT event, trigger, accepted FROM run WHERE id = ?"
        row = self._on(day_of(run), lambda one: one.execute(sql, (run,)).fetchone(), None)
        return event_view(row)

    def newest_of(self, flows: Iterable[int], days: int = 31) -> dict[int, RunHead]:
        found: dict[int, RunHead] = {}
        missing = set(flows)

        def read(connection: sqlite3.Connection) -> list[RunHead]:
            one = [RunFilter(flows=[flow], children=True) for flow in missing]
            return [head for wanted in one for head in self._page_of_flows(connection, wanted, 0, MAX_ID, 1)]

        for day in shards.days(self._data)[:days]:
            if not missing:
                break
            nothing: list[RunHead] = []
            found |= {head.flow: head for head in self._on(day, read, nothing)}
            missing -= found.keys()
        return found

    def counts(self, since: float) -> dict[str, int]:
        lower = first_of(since)
        totals: dict[str, int] = {}
        sql = "SELECT state, count(*) FROM run WHERE id >= ? AND parent IS NULL GROUP BY state"
        for day in shards.days(self._data):
            if day < day_of(lower):
                break
            rows: list[tuple[int, int]] = self._on(day, lambda one: one.execute(sql, (lower,)).fetchall(), [])
            for state, count in rows:
                label = RunState(state).label
                totals[label] = totals.get(label, 0) + count
        return totals

    def open_letters(self) -> int:
        sql = "SELECT count(*) FROM run WHERE letter = 1"
        days = shards.days(self._data)
        return sum(self._on(day, lambda one: int(one.execute(sql).fetchone()[0]), 0) for day in days)

    def size(self) -> int:
        return total_bytes(self._data)


def _detail(connection: sqlite3.Connection, run: int) -> RunDetail | None:
    row = connection.execute(f"SELECT {RUN_COLUMNS} FROM run WHERE id = ?", (run,)).fetchone()
    if row is None:
        return None
    note = connection.execute("SELECT at, who, reason FROM letter_note WHERE run = ?", (run,)).fetchone()
    return detail_of(RunRow(*row), chunks_of(connection, run), note)
