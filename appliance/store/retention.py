"""How long history is kept: by age and by size, per engine and per flow; failed runs longer than good ones.

Only days that are over are touched, and only as whole files: a shard is rewritten without what has had its time, or
deleted when nothing is left. Runs under way are always kept. Nothing is ever VACUUMed.
"""

from __future__ import annotations

import calendar
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from appliance.store import shards
from appliance.store.runids import first_of

DAY = 86_400.0
#: A shard is rewritten only if at least this share of its runs goes: rewriting costs the card more than keeping.
WORTH = 0.3


class Rule(Struct, frozen=True):
    """Days for which good and other runs are kept."""

    good: float
    other: float


class Policy(Struct, frozen=True):
    """The engine's rule, the rules of single flows (by number), and the bound of all history in bytes."""

    engine: Rule
    flows: Mapping[int, Rule]
    max_bytes: int


class Swept(Struct):
    """What a sweep did."""

    deleted: list[str] = []
    rewritten: list[str] = []
    freed: int = 0
    blobs: set[str] = set()


#: Carries out a file change at a moment when nobody writes to the day; False if the day was written meanwhile.
Exchange = Callable[[str, int, Callable[[], None]], bool]


class Retention:
    """Sweeps the shards. Runs on a maintenance thread; ``exchange`` swaps files on the writer's."""

    def __init__(self, data: Path, writes: Callable[[str], int], exchange: Exchange) -> None:
        self._data = data
        self._writes = writes
        self._exchange = exchange

    def sweep(self, policy: Policy, now: float) -> Swept:
        """Apply age, then size. Blobs that lost a user are named; whether they have others is for the caller."""
        swept = Swept()
        today = time.strftime("%Y-%m-%d", time.gmtime(now))
        closed = [day for day in reversed(shards.days(self._data)) if day < today]
        for day in closed:
            self._by_age(day, policy, now, swept)
        self._by_size(closed, policy.max_bytes, swept)
        return swept

    def _by_age(self, day: str, policy: Policy, now: float, swept: Swept) -> None:
        path = shards.shard_path(self._data, day)
        oldest = [policy.engine, *policy.flows.values()]
        if _age(day, now) < min(min(rule.good, rule.other) for rule in oldest):
            return
        condition, values = _expired(policy, now)
        self._drop(day, path, condition, values, swept, WORTH)

    def _by_size(self, closed: list[str], bound: int, swept: Swept) -> None:
        """Too much altogether: first the good runs of the oldest days go, then all their ended runs."""
        for condition in ("state = 10 OR state = 14", "state >= 10"):
            for day in closed:
                if total_bytes(self._data) <= bound:
                    return
                path = shards.shard_path(self._data, day)
                if path.exists():
                    self._drop(day, path, condition, [], swept, 0.0)

    def _drop(self, day: str, path: Path, condition: str, values: list[float], swept: Swept, worth: float) -> None:
        before = self._writes(day)
        reader = shards.open_reader(path)
        try:
            total = reader.execute("SELECT count(*) FROM run").fetchone()[0]
            sql = f"SELECT count(*) FROM run WHERE state >= 10 AND ({condition})"
            going = reader.execute(sql, values).fetchone()[0]
            if total and (not going or going < total * worth):
                return
            blobs = {
                row[0]
                for row in reader.execute(
                    f"SELECT hash FROM blob_use WHERE run IN (SELECT id FROM run WHERE state >= 10 AND ({condition}))",
                    values,
                )
            }
        finally:
            reader.close()
        size = _bytes_of(path)
        if going == total:
            done = self._exchange(day, before, lambda: _delete(path))
            if done:
                swept.deleted.append(day)
                swept.freed += size
        else:
            done = self._rewrite(day, path, condition, values, before)
            if done:
                swept.rewritten.append(day)
                swept.freed += max(0, size - _bytes_of(path))
        if done:
            swept.blobs |= blobs

    def _rewrite(self, day: str, path: Path, condition: str, values: list[float], before: int) -> bool:
        fresh = path.with_name(path.name + ".new")
        for file in shards.files_of(fresh):
            file.unlink(missing_ok=True)
        _copy_kept(path, fresh, condition, values)

        def swap() -> None:
            for file in shards.files_of(path)[1:]:
                file.unlink(missing_ok=True)
            fresh.replace(path)
            _sync_folder(path.parent)

        done = self._exchange(day, before, swap)
        for file in shards.files_of(fresh):
            file.unlink(missing_ok=True)
        return done


def _age(day: str, now: float) -> float:
    """Days since the youngest run that a day can hold."""
    return (now - _end_of(day)) / DAY


def _end_of(day: str) -> float:
    return calendar.timegm(time.strptime(day, "%Y-%m-%d")) + DAY


def _expired(policy: Policy, now: float) -> tuple[str, list[float]]:
    """The SQL condition of runs that have had their time."""
    parts: list[str] = []
    values: list[float] = []

    def add(who: str, rule: Rule) -> None:
        parts.append(f"({who} AND ((state IN (10, 14) AND id < ?) OR (state NOT IN (10, 14) AND id < ?)))")
        values.extend((first_of(now - rule.good * DAY), first_of(now - rule.other * DAY)))

    for flow, rule in policy.flows.items():
        add(f"flow = {int(flow)}", rule)
    others = ", ".join(str(int(flow)) for flow in policy.flows)
    add(f"flow NOT IN ({others})", policy.engine)
    return " OR ".join(parts), values


def _copy_kept(path: Path, fresh: Path, condition: str, values: list[float]) -> None:
    """A new shard with what stays, complete and on disk."""
    writer = shards.open_writer(fresh, sync=True)
    try:
        writer.execute("PRAGMA journal_mode=DELETE")
        writer.execute("ATTACH ? AS old", (str(path),))
        writer.execute("BEGIN")
        kept = f"SELECT id FROM old.run WHERE NOT (state >= 10 AND ({condition}))"
        writer.execute(f"INSERT INTO run SELECT * FROM old.run WHERE id IN ({kept})", values)
        for table, column in (("chunk", "run"), ("blob_use", "run"), ("letter_note", "run"), ("event_key", "run")):
            writer.execute(f"INSERT INTO {table} SELECT * FROM old.{table} WHERE {column} IN (SELECT id FROM run)")
        writer.execute("INSERT INTO state_op SELECT * FROM old.state_op")
        writer.execute("COMMIT")
    finally:
        writer.close()
    with fresh.open("rb") as file:
        os.fsync(file.fileno())


def _delete(path: Path) -> None:
    for file in shards.files_of(path):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in shards.files_of(path) if file.exists())


def total_bytes(data: Path) -> int:
    """Bytes of all shards."""
    return sum(_bytes_of(shards.shard_path(data, day)) for day in shards.days(data))


def blobs_in_use(data: Path, digests: Iterable[str]) -> set[str]:
    """Of these blobs, those that a kept run still uses."""
    left = set(digests)
    used: set[str] = set()
    for day in shards.days(data):
        reader = shards.open_reader(shards.shard_path(data, day))
        try:
            for digest in list(left):
                if reader.execute("SELECT 1 FROM blob_use WHERE hash = ? LIMIT 1", (digest,)).fetchone():
                    used.add(digest)
                    left.discard(digest)
        except sqlite3.DatabaseError:
            # A shard that cannot be read may use anything: nothing is deleted then.
            return used | left
        finally:
            reader.close()
    return used
