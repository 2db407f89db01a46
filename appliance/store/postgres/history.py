"""Reading runs from Postgres.

A list looks into the newest day first, then into more and more of the older ones at a time: the usual page needs one
day's partition, and one that finds little needs few questions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from appliance.engine.states import RunState
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
from appliance.store.postgres.days import total_bytes
from appliance.store.postgres.pool import Pool
from appliance.store.runids import day_of, first_of
from appliance.store.shards import StoreFailure

_DAY = 86_400.0
#: Rows of a text search that are looked at in one question.
_BLOCK = 500
_HIT = " OR ".join(
    (
        *(f"position(%s::bytea IN {column}) > 0" for column in ("event", "steps", "coalesce(error, '')")),
        "EXISTS (SELECT 1 FROM chunk WHERE chunk.run = run.id AND position(%s::bytea IN data) > 0)",
    )
)


class PostgresHistory(History):
    """The runs of a database."""

    def __init__(self, url: str) -> None:
        self._pool = Pool(url)
        self.damaged = {}

    def close(self) -> None:
        self._pool.close()

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._pool.run(lambda connection: connection.execute(sql.encode(), values, binary=True).fetchall())

    def page(self, wanted: RunFilter, before: int | None = None, limit: int = 100) -> RunPage:
        lower, upper = span_of_filter(wanted, before)
        if wanted.text:
            return self._search(wanted, lower, upper, limit)
        found: list[RunHead] = []
        for row in self._newest(HEAD_COLUMNS, [], wanted, lower, upper, limit):
            found.append(head_of(row))
            if len(found) >= limit:
                return RunPage(found, found[-1].id)
        return RunPage(found, None)

    def _search(self, wanted: RunFilter, lower: int, upper: int, limit: int) -> RunPage:
        found: list[RunHead] = []
        columns, needle = f"{HEAD_COLUMNS}, {_HIT}", [wanted.text.encode()] * 4
        for seen, row in enumerate(self._newest(columns, needle, wanted, lower, upper, _BLOCK), start=1):
            if row[-1]:
                found.append(head_of(row[:-1]))
            if len(found) >= limit or seen >= self.scan:
                return RunPage(found, row[0])
        return RunPage(found, None)

    def _newest(
        self, columns: str, first_values: list[Any], wanted: RunFilter, lower: int, upper: int, block: int
    ) -> Iterator[tuple[Any, ...]]:
        """Rows from the newest on, so many in each question."""
        for first, behind in _windows(lower, upper):
            while True:
                where, values = conditions(wanted, first, behind, "%s")
                sql = f"SELECT {columns} FROM run WHERE {where} ORDER BY id DESC LIMIT {int(block)}"
                rows = self._rows(sql, [*first_values, *values])
                yield from rows
                if len(rows) < block:
                    break
                behind = rows[-1][0]

    def head(self, run: int) -> RunHead | None:
        rows = self._rows(f"SELECT {HEAD_COLUMNS} FROM run WHERE id = %s", (run,))
        return head_of(rows[0]) if rows else None

    def detail(self, run: int) -> RunDetail | None:
        rows = self._rows(f"SELECT {RUN_COLUMNS} FROM run WHERE id = %s", (run,))
        if not rows:
            return None
        chunks = [row[0] for row in self._rows("SELECT data FROM chunk WHERE run = %s ORDER BY seq", (run,))]
        notes = self._rows("SELECT at, who, reason FROM letter_note WHERE run = %s", (run,))
        try:
            return detail_of(RunRow(*rows[0]), chunks, (notes[0][0], notes[0][1], notes[0][2]) if notes else None)
        except msgspec.DecodeError as exc:
            raise StoreFailure(f"the run cannot be read: its records of {day_of(run)} are damaged ({exc})") from exc

    def event(self, run: int) -> dict[str, Any] | None:
        rows = self._rows("SELECT event, trigger, accepted FROM run WHERE id = %s", (run,))
        return event_view((rows[0][0], rows[0][1], rows[0][2])) if rows else None

    def newest_of(self, flows: Iterable[int], days: int = 31) -> dict[int, RunHead]:
        sql = (
            f"SELECT newest.* FROM unnest(%s::bigint[]) AS wanted(num), LATERAL (SELECT {HEAD_COLUMNS} FROM run "
            "WHERE run.flow = wanted.num AND run.id >= %s ORDER BY run.id DESC LIMIT 1) AS newest"
        )
        rows = self._rows(sql, (list(flows), first_of(time.time() - days * _DAY)))
        return {row[1]: head_of(row) for row in rows}

    def counts(self, since: float) -> dict[str, int]:
        sql = "SELECT state, count(*) FROM run WHERE id >= %s AND parent IS NULL GROUP BY state"
        return {RunState(state).label: count for state, count in self._rows(sql, (first_of(since),))}

    def open_letters(self) -> int:
        return int(self._rows("SELECT count(*) FROM run WHERE letter = 1")[0][0])

    def size(self) -> int:
        return self._pool.run(total_bytes)


def _windows(lower: int, upper: int) -> Iterator[tuple[int, int]]:
    """Spans of ids that cover what is wanted, from the newest on: the last day, and then ever more days at once."""
    behind, back = upper, 1
    moment = time.time()
    while behind > lower:
        first = max(lower, min(first_of(moment - back * _DAY), behind))
        if first < behind:
            yield first, behind
        behind, back = first, back * 4
        if back > 4**6:
            back = 1 << 20
