"""Reading what runs did: lists a page at a time, single runs with every record, counts. Never writes.

Any process may read while the kernel writes. A list walks the day shards from the newest; its cursor is the last run
id, so the next page starts exactly where this one ended however many runs came in between.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.engine import trace
from appliance.engine.states import Letter, RunState
from appliance.engine.trace import Record, records_of
from appliance.store import shards
from appliance.store.journal import RUN_COLUMNS, RunRow, chunks_of
from appliance.store.runids import MAX_ID, day_of, first_of

_HEAD_COLUMNS = "id, flow, version, place, state, accepted, finished, trigger, error, parent, origin, letter"
#: Rows looked at for one page of a text search before the page is given back, perhaps short.
SCAN = 20_000


class RunHead(Struct, frozen=True):
    """A run without its data; times are microseconds since 1970, UTC."""

    id: int
    flow: int
    version: int
    place: str
    state: int
    accepted: int
    finished: int | None
    trigger: str
    error: Any
    parent: int | None
    origin: int | None
    letter: int


class RunFilter(Struct, frozen=True, kw_only=True):
    """Which runs; empty fields do not filter. ``since``/``until`` are Unix seconds; ``children``: also child runs."""

    flows: Sequence[int] = ()
    states: Sequence[RunState] = ()
    trigger: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""
    letter: Letter | None = None
    parent: int | None = None
    origin: int | None = None
    children: bool = False


class RunPage(Struct, frozen=True):
    """A page, newest first; ``next`` is the cursor of the page behind it, None at the end."""

    items: list[RunHead]
    next: int | None


class RunDetail(Struct, frozen=True):
    """A run with its event (``[id, view, payload, item]``) and all its records in order."""

    head: RunHead
    event: list[Any]
    records: list[Record]
    letter_note: tuple[int, str, str] | None


class History:
    """The shards, open for reading. Safe from any thread; each has its own connections."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every thread's connections. Twice is fine."""
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
        try:
            connection = shards.open_reader(path)
        except sqlite3.OperationalError:
            return None
        kept[day] = (connection, inode)
        with self._lock:
            self._all.append(connection)
        return connection

    def _drop(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if connection in self._all:
                self._all.remove(connection)
        connection.close()

    def page(self, wanted: RunFilter, before: int | None = None, limit: int = 100) -> RunPage:
        """The newest runs older than the id ``before``."""
        upper = MAX_ID if before is None else before
        if wanted.until is not None:
            upper = min(upper, first_of(wanted.until))
        lower = first_of(wanted.since) if wanted.since is not None else 0
        items: list[RunHead] = []
        scanned = SCAN
        for day in shards.days(self._data):
            if day > day_of(min(upper, first_of(4e9))) or (lower and day < day_of(lower)):
                continue
            rows, scanned, stopped_at = self._page_of(day, wanted, lower, upper, limit - len(items), scanned)
            items += rows
            if len(items) >= limit:
                return RunPage(items, items[-1].id)
            if scanned <= 0:
                return RunPage(items, stopped_at)
        return RunPage(items, None)

    def _page_of(
        self, day: str, wanted: RunFilter, lower: int, upper: int, limit: int, scan: int
    ) -> tuple[list[RunHead], int, int | None]:
        connection = self._reader(day)
        if connection is None:
            return [], scan, None
        where, values = _conditions(wanted, lower, upper)
        if not wanted.text:
            sql = f"SELECT {_HEAD_COLUMNS} FROM run WHERE {where} ORDER BY id DESC LIMIT ?"
            return [_head(row) for row in connection.execute(sql, [*values, limit])], scan, None
        needle = wanted.text.encode()
        columns = f"{_HEAD_COLUMNS}, instr(event, ?) + instr(steps, ?) + instr(coalesce(error, ''), ?)"
        sql = f"SELECT {columns} FROM run WHERE {where} ORDER BY id DESC LIMIT ?"
        found: list[RunHead] = []
        last: int | None = None
        for row in connection.execute(sql, [needle, needle, needle, *values, scan]):
            scan -= 1
            last = row[0]
            if row[-1] or self._in_chunks(connection, row[0], needle):
                found.append(_head(row[:-1]))
                if len(found) >= limit:
                    break
        return found, scan, last

    def _in_chunks(self, connection: sqlite3.Connection, run: int, needle: bytes) -> bool:
        sql = "SELECT 1 FROM chunk WHERE run = ? AND instr(data, ?) LIMIT 1"
        return connection.execute(sql, (run, needle)).fetchone() is not None

    def head(self, run: int) -> RunHead | None:
        """One run without its data."""
        connection = self._reader(day_of(run))
        if connection is None:
            return None
        row = connection.execute(f"SELECT {_HEAD_COLUMNS} FROM run WHERE id = ?", (run,)).fetchone()
        return _head(row) if row else None

    def detail(self, run: int) -> RunDetail | None:
        """One run with everything. Raises ``msgspec.DecodeError`` for damaged records."""
        connection = self._reader(day_of(run))
        if connection is None:
            return None
        row = connection.execute(f"SELECT {RUN_COLUMNS} FROM run WHERE id = ?", (run,)).fetchone()
        if row is None:
            return None
        full = RunRow(*row)
        records = list(records_of([full.steps, *chunks_of(connection, run)]))
        note = connection.execute("SELECT at, who, reason FROM letter_note WHERE run = ?", (run,)).fetchone()
        head = _head((*row[:8], row[9], *row[10:13]))
        return RunDetail(head, trace.unpack(full.event), records, note)

    def counts(self, since: float) -> dict[str, int]:
        """How many runs were accepted since a moment (Unix seconds), by the name of their state."""
        lower = first_of(since)
        totals: dict[str, int] = {}
        for day in shards.days(self._data):
            if day < day_of(lower):
                break
            connection = self._reader(day)
            if connection is None:
                continue
            sql = "SELECT state, count(*) FROM run WHERE id >= ? AND parent IS NULL GROUP BY state"
            for state, count in connection.execute(sql, (lower,)):
                label = RunState(state).label
                totals[label] = totals.get(label, 0) + count
        return totals

    def open_letters(self) -> int:
        """How many runs are on the dead-letter list."""
        total = 0
        for day in shards.days(self._data):
            connection = self._reader(day)
            if connection is not None:
                total += connection.execute("SELECT count(*) FROM run WHERE letter = 1").fetchone()[0]
        return total

    def size(self) -> int:
        """Bytes that all shards take on disk."""
        return sum(file.stat().st_size for day in shards.days(self._data) for file in self._files(day))

    def _files(self, day: str) -> Iterator[Path]:
        for file in shards.files_of(shards.shard_path(self._data, day)):
            if file.exists():
                yield file


def _conditions(wanted: RunFilter, lower: int, upper: int) -> tuple[str, list[Any]]:
    parts, values = ["id >= ?", "id < ?"], [lower, upper]
    many: list[Any] = values
    if wanted.flows:
        parts.append(f"flow IN ({', '.join('?' * len(wanted.flows))})")
        many += wanted.flows
    if wanted.states:
        parts.append(_states(wanted.states))
    if wanted.trigger:
        parts.append("trigger = ?")
        many.append(wanted.trigger)
    if wanted.letter is not None:
        # Written out, for the index on open letters is a partial one.
        parts.append(f"letter = {int(wanted.letter)}")
    if wanted.origin is not None:
        parts.append("origin = ?")
        many.append(wanted.origin)
    if wanted.parent is not None:
        parts.append("parent = ?")
        many.append(wanted.parent)
    elif not wanted.children:
        parts.append("parent IS NULL")
    return " AND ".join(parts), many


def _states(states: Sequence[RunState]) -> str:
    """Written out with the bounds of the partial indexes, so that these are used."""
    listed = f"state IN ({', '.join(str(int(state)) for state in states)})"
    if all(state.under_way for state in states):
        return f"state < 10 AND {listed}"
    if all(state > RunState.SUCCEEDED for state in states):
        return f"state > 10 AND {listed}"
    return listed


def _head(row: tuple[Any, ...]) -> RunHead:
    error = trace.unpack(row[8]) if row[8] else None
    values: tuple[Any, ...] = (*row[:8], error, *row[9:])
    return RunHead(*values)
