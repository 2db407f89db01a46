"""Retention in Postgres: a day of which nothing is left is dropped, one of which enough goes is thinned and packed.

Of several kernels one sweeps at a time. A commit never waits longer than the lock's patience: a day that is in use is
left for the next time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import closing

import psycopg

from appliance.store.errors import StoreError
from appliance.store.postgres.connecting import Connection, connect, explained
from appliance.store.postgres.days import bounds, bytes_of, days, drop_day, partition, total_bytes
from appliance.store.postgres.run_schema import DAILY
from appliance.store.retention import DAY, ENDED, GOOD, WORTH, Policy, Retention, Swept, age, expired, youngest
from appliance.store.runids import first_of

logger = logging.getLogger(__name__)

#: The advisory lock of whoever sweeps.
_LOCK = 1_718_185_076
#: Seconds that a sweep waits for those who use a day, and they for it.
_PATIENCE = 1.0
#: Days for which the ids of unique events are kept: a redelivery comes sooner.
_KEYS_DAYS = 2
_KEYS_AT_ONCE = 20_000
# Children are counted by a run that is under way, whichever kernel's it is.
_SPARED = "NOT EXISTS (SELECT 1 FROM run AS above WHERE above.id = run.parent AND above.state < 10)"


class PostgresRetention(Retention):
    """Sweeps the days, on a connection of its own that is closed behind each sweep."""

    def __init__(self, url: str) -> None:
        self._url = url

    def sweep(self, policy: Policy, now: float) -> Swept:
        swept = Swept()
        with explained(self._url), closing(connect(self._url, busy=_PATIENCE)) as connection:
            if connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone() != (True,):
                return swept
            today = time.strftime("%Y-%m-%d", time.gmtime(now))
            closed = [day for day in reversed(days(connection)) if day < today]
            condition, values = expired(policy, now, "%s")
            for day in closed:
                if age(day, now) >= youngest(policy):
                    _drop(connection, day, condition, values, swept, WORTH)
            _by_size(connection, closed, policy, swept)
            _forget_keys(connection, now)
        return swept

    def blobs_in_use(self, digests: Iterable[str]) -> set[str]:
        with explained(self._url), closing(connect(self._url)) as connection:
            sql = "SELECT DISTINCT hash FROM blob_use WHERE hash = ANY(%s)"
            return {row[0] for row in connection.execute(sql, (list(digests),))}

    def total_bytes(self) -> int:
        try:
            with explained(self._url), closing(connect(self._url)) as connection:
                return total_bytes(connection)
        except StoreError:
            return 0


def _by_size(connection: Connection, closed: list[str], policy: Policy, swept: Swept) -> None:
    """Too much altogether: first the good runs of the oldest days go, then all their ended runs."""
    for condition in (GOOD, ENDED):
        for day in closed:
            if total_bytes(connection) <= policy.max_bytes:
                return
            if day not in swept.deleted:
                _drop(connection, day, condition, [], swept, 0.0)


def _drop(connection: Connection, day: str, condition: str, values: list[float], swept: Swept, worth: float) -> None:
    going = f"{ENDED} AND ({condition}) AND {_SPARED} AND id >= %s AND id < %s"
    span = bounds(day)
    sql = f"SELECT count(*), count(*) FILTER (WHERE {going}) FROM run WHERE id >= %s AND id < %s"
    total, gone = connection.execute(sql.encode(), [*values, *span, *span]).fetchone() or (0, 0)
    if total and (not gone or gone < total * worth):
        return
    size = bytes_of(connection, day)
    try:
        with connection.transaction():
            which = f"SELECT id FROM run WHERE {going}".encode()
            runs = [row[0] for row in connection.execute(which, [*values, *span])]
            blobs = _blobs_of(connection, runs, span)
            if gone == total and not _drop_whole(connection, day, runs):
                return
            if gone < total:
                _delete(connection, runs, span)
        if gone < total:
            _pack(connection, day)
    except psycopg.errors.LockNotAvailable:
        logger.info("%s is in use and is swept the next time", day)
        return
    (swept.deleted if gone == total else swept.rewritten).append(day)
    swept.freed += max(0, size - (bytes_of(connection, day) if gone < total else 0))
    swept.blobs |= blobs


def _blobs_of(connection: Connection, runs: list[int], span: tuple[int, int]) -> set[str]:
    sql = "SELECT DISTINCT hash FROM blob_use WHERE run = ANY(%s) AND run >= %s AND run < %s"
    return {row[0] for row in connection.execute(sql, (runs, *span))}


def _drop_whole(connection: Connection, day: str, runs: list[int]) -> bool:
    """Drop a day if these are still all of its runs: a kernel may have written to it meanwhile."""
    first, behind = bounds(day)
    connection.execute("LOCK TABLE run IN ACCESS EXCLUSIVE MODE")
    count = connection.execute("SELECT count(*) FROM run WHERE id >= %s AND id < %s", (first, behind)).fetchone()
    if count != (len(runs),):
        return False
    drop_day(connection, day)
    return True


def _delete(connection: Connection, runs: list[int], span: tuple[int, int]) -> None:
    for table, column in DAILY.items():
        sql = f"DELETE FROM {table} WHERE {column} = ANY(%s) AND {column} >= %s AND {column} < %s"
        connection.execute(sql.encode(), (runs, *span))


def _pack(connection: Connection, day: str) -> None:
    """Give the room back to the disk: the day is over, nobody writes to it but runs that still wait."""
    for table in DAILY:
        connection.execute(f"VACUUM (FULL, ANALYZE) {partition(table, day)}".encode())


def _forget_keys(connection: Connection, now: float) -> None:
    sql = "DELETE FROM event_key WHERE key IN (SELECT key FROM event_key WHERE run < %s ORDER BY run LIMIT %s)"
    while connection.execute(sql, (first_of(now - _KEYS_DAYS * DAY), _KEYS_AT_ONCE)).rowcount >= _KEYS_AT_ONCE:
        pass
