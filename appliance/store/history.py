"""Reading what runs did: lists a page at a time, single runs with every record, counts. Never writes.

Any process may read while the kernel writes. A list's cursor is the last run id, so the next page starts exactly where
this one ended however many runs came in between. Here is what every history offers; ``shard_history.py`` reads SQLite
files, ``postgres/history.py`` a database. ``places.py`` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.engine import trace
from appliance.engine.plan import Plan
from appliance.engine.states import Letter, RunState
from appliance.engine.steps_view import Story, story_of
from appliance.engine.trace import Record, records_of
from appliance.store.journal import RunRow
from appliance.store.runids import MAX_ID, first_of

HEAD_COLUMNS = "id, flow, version, place, state, accepted, finished, trigger, error, parent, origin, letter"


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
    """A page, newest first; ``next`` is the cursor of the page behind it, None at the end.

    ``damaged`` names the days that could not be read; their runs are missing from the page.
    """

    items: list[RunHead]
    next: int | None
    damaged: tuple[str, ...] = ()


class RunDetail(Struct, frozen=True):
    """A run with its event (``[id, view, payload, item]``) and all its records in order."""

    head: RunHead
    event: list[Any]
    records: list[Record]
    letter_note: tuple[int, str, str] | None

    def story(self, plan: Plan) -> Story:
        """The run's steps by the plan of its graph, with values that were put aside as references."""
        head, (_, view, payload, _) = self.head, self.event
        start = view.get("replay_from") if head.origin is not None else None
        return story_of(
            plan,
            view.get("replay_payload") if start else payload,
            self.records,
            event=view,
            start=(start, payload) if start else None,
            place=head.place,
            ended=not RunState(head.state).under_way,
        )


class History(ABC):
    """The runs, open for reading. Safe from any thread. Raises ``StoreError`` where a server cannot be reached."""

    #: Rows looked at for one page of a text search before the page is given back, perhaps short.
    scan = 20_000
    #: Days that could not be read when they were last asked for, with the reason.
    damaged: dict[str, str]

    @abstractmethod
    def close(self) -> None:
        """Close every connection. Twice is fine."""

    @abstractmethod
    def page(self, wanted: RunFilter, before: int | None = None, limit: int = 100) -> RunPage:
        """The newest runs older than the id ``before``."""

    @abstractmethod
    def head(self, run: int) -> RunHead | None:
        """One run without its data."""

    @abstractmethod
    def detail(self, run: int) -> RunDetail | None:
        """One run with everything. Raises ``StoreFailure`` for a damaged shard or damaged records."""

    @abstractmethod
    def event(self, run: int) -> dict[str, Any] | None:
        """What a run was started by, without its payload; None if that is lost."""

    @abstractmethod
    def newest_of(self, flows: Iterable[int], days: int = 31) -> dict[int, RunHead]:
        """The newest run of each of these flows, as far as it is in the newest ``days`` days."""

    @abstractmethod
    def counts(self, since: float) -> dict[str, int]:
        """How many runs were accepted since a moment (Unix seconds), by the name of their state."""

    @abstractmethod
    def open_letters(self) -> int:
        """How many runs are on the dead-letter list."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that all runs take on disk."""


def head_of(row: Sequence[Any]) -> RunHead:
    """A run from its :data:`HEAD_COLUMNS`."""
    try:
        error = trace.unpack(row[8]) if row[8] else None
    except msgspec.DecodeError:
        error = {"id": "store-failed", "message": "the error of this run cannot be read; its record is damaged"}
    values: tuple[Any, ...] = (*row[:8], error, *row[9:])
    return RunHead(*values)


def detail_of(row: RunRow, chunks: Iterable[bytes], note: tuple[int, str, str] | None) -> RunDetail:
    """A run with its records. Raises ``msgspec.DecodeError``."""
    records = list(records_of([row.steps, *chunks]))
    head = head_of((*row[:8], row[9], *row[10:13]))
    return RunDetail(head, trace.unpack_event(row.event, row.trigger, row.accepted), records, note)


def event_view(row: tuple[bytes, str, int] | None) -> dict[str, Any] | None:
    """What is seen of an event, from a run's event, trigger and time of acceptance."""
    try:
        return None if row is None else dict(trace.unpack_event(*row)[1])
    except msgspec.DecodeError:
        return None


def span_of_filter(wanted: RunFilter, before: int | None) -> tuple[int, int]:
    """The ids that a filter's times and a cursor leave: from, and up to but without."""
    upper = MAX_ID if before is None else before
    if wanted.until is not None:
        upper = min(upper, first_of(wanted.until))
    return first_of(wanted.since) if wanted.since is not None else 0, upper


def conditions(wanted: RunFilter, lower: int, upper: int, mark: str = "?") -> tuple[str, list[Any]]:
    """The SQL condition of a filter and its values; ``mark`` is the driver's sign for a value."""
    parts, values = [f"id >= {mark}", f"id < {mark}"], [lower, upper]
    many: list[Any] = values
    if wanted.flows:
        parts.append(f"flow IN ({', '.join([mark] * len(wanted.flows))})")
        many += wanted.flows
    if wanted.states:
        parts.append(_states(wanted.states))
    if wanted.trigger:
        parts.append(f"trigger = {mark}")
        many.append(wanted.trigger)
    if wanted.letter is not None:
        # Written out, for the index on open letters is a partial one.
        parts.append(f"letter = {int(wanted.letter)}")
    if wanted.origin is not None:
        parts.append(f"origin = {mark}")
        many.append(wanted.origin)
    if wanted.parent is not None:
        parts.append(f"parent = {mark}")
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
