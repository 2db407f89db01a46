"""The parts of Huey's storage beside the queue itself: the schedule, keys with values, counters.

They are as Huey's ``BaseStorage`` documents them. Beyond it: keys may expire, a task's result does so by
itself (a result that nobody fetches would otherwise stay for ever), and a read never writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from huey.constants import EmptyData
from huey.storage import BaseStorage

from appliance.queue.database import Database

_RESULT_TTL = 86400.0
_CHUNK = 500


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def _seconds(moment: datetime) -> float:
    # Huey's naive datetimes are UTC: read as local time they would jump with the daylight saving.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Due(NamedTuple):
    """One task of the schedule whose time has come."""

    id: int
    data: bytes


class SqliteValues(BaseStorage):
    """``now`` gives Unix seconds (UTC); it decides only when a key expires."""

    def __init__(self, name: str, database: Database, now: Callable[[], float] = time.time) -> None:
        super().__init__(name)
        self._db = database
        self._now = now

    # --- schedule ---------------------------------------------------------------------------------

    def add_to_schedule(self, data: bytes, ts: datetime) -> None:
        """Keep ``data`` until ``ts``; a naive datetime is UTC."""
        sql = "insert into schedule (queue, data, due) values (?, ?, ?)"
        self._db.execute(sql, (self.name, data, _seconds(ts)))

    def due(self, ts: datetime, limit: int = -1) -> list[Due]:
        """The scheduled tasks whose time has come at ``ts``, soonest first; they stay where they are."""
        sql = "select id, data from schedule where queue = ? and due <= ? order by due, id limit ?"
        return [Due(*row) for row in self._db.query(sql, (self.name, _seconds(ts), limit))]

    def read_schedule(self, ts: datetime) -> list[bytes]:
        """Take out the tasks that are due; one that is read and not enqueued is lost if the power goes."""
        if not self.due(ts, limit=1):
            return []
        sql = "delete from schedule where queue = ? and due <= ? returning due, id, data"
        return [data for _, _, data in sorted(self._db.query(sql, (self.name, _seconds(ts))))]

    def schedule_size(self) -> int:
        return self._count("schedule")

    def scheduled_items(self, limit: int | None = None) -> list[bytes]:
        """The scheduled tasks, soonest first."""
        sql = "select data from schedule where queue = ? order by due, id limit ?"
        return [data for (data,) in self._db.query(sql, (self.name, limit or -1))]

    def flush_schedule(self) -> None:
        self._db.execute("delete from schedule where queue = ?", (self.name,))

    # --- keys and values --------------------------------------------------------------------------

    def put_data(self, key: str | bytes, value: bytes, is_result: bool = False) -> None:
        """Set; a result is kept for a day, everything else until it is deleted."""
        expires = self._now() + _RESULT_TTL if is_result else None
        sql = "insert or replace into kv (queue, key, value, expires) values (?, ?, ?, ?)"
        self._db.execute(sql, (self.name, _text(key), value, expires))

    def peek_data(self, key: str | bytes) -> Any:
        """The value, or the class ``EmptyData``."""
        return self.peek_many([key]).get(key, EmptyData)

    def peek_many(self, keys: Sequence[str | bytes]) -> dict[str | bytes, bytes]:
        """The values of those keys that exist."""
        found: dict[str, bytes] = {}
        names = [_text(key) for key in keys]
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            sql = (
                f"select key, value from kv where queue = ? and key in ({_marks(chunk)}) "
                "and (expires is null or expires > ?)"
            )
            found.update(self._db.query(sql, (self.name, *chunk, self._now())))
        return {key: found[name] for key, name in zip(keys, names, strict=True) if name in found}

    def pop_data(self, key: str | bytes) -> Any:
        """Delete and return the value, or the class ``EmptyData``. A missing key costs no write."""
        if self.peek_data(key) is EmptyData:
            return EmptyData
        sql = "delete from kv where queue = ? and key = ? returning value"
        rows = self._db.query(sql, (self.name, _text(key)))
        return rows[0][0] if rows else EmptyData

    def has_data_for_key(self, key: str | bytes) -> bool:
        return self.peek_data(key) is not EmptyData

    def put_if_empty(self, key: str | bytes, value: bytes, ttl: float | None = None) -> bool:
        """Set if the key does not exist, for ``ttl`` seconds or for ever; whether it was set."""
        now = self._now()
        # An expired row that has not been cleared away yet counts as absent.
        sql = """insert into kv (queue, key, value, expires) values (?, ?, ?, ?)
            on conflict (queue, key) do update set value = excluded.value, expires = excluded.expires
            where kv.expires <= ?"""
        expires = None if ttl is None else now + ttl
        return self._db.execute(sql, (self.name, _text(key), value, expires, now)) == 1

    def clear_expired(self) -> None:
        """Delete the keys whose time is over; writes only if there are any."""
        now = self._now()
        if self._db.query("select 1 from kv where expires <= ? limit 1", (now,)):
            self._db.execute("delete from kv where expires <= ?", (now,))

    def result_store_size(self) -> int:
        return len(self.result_items())

    def result_items(self) -> dict[str, bytes]:
        """All keys with their values."""
        sql = "select key, value from kv where queue = ? and (expires is null or expires > ?)"
        return dict(self._db.query(sql, (self.name, self._now())))

    def flush_results(self) -> None:
        self._db.execute("delete from kv where queue = ?", (self.name,))

    # --- counters ---------------------------------------------------------------------------------

    def incr(self, key: str | bytes, amount: int = 1) -> int:
        """Add to a counter that starts at 0; the new value."""
        sql = """insert into counter (queue, key, value) values (?, ?, ?)
            on conflict (queue, key) do update set value = value + excluded.value returning value"""
        return int(self._db.query(sql, (self.name, _text(key), amount))[0][0])

    def delete_counter(self, key: str | bytes) -> None:
        self._db.execute("delete from counter where queue = ? and key = ?", (self.name, _text(key)))

    def flush_counters(self) -> None:
        self._db.execute("delete from counter where queue = ?", (self.name,))

    def _count(self, table: str, where: str = "1") -> int:
        sql = f"select count(*) from {table} where queue = ? and {where}"
        return int(self._db.query(sql, (self.name,))[0][0])


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
