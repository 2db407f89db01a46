"""The days of the runs' tables: one partition a UTC day, named after it, with the bounds of that day's run ids."""

from __future__ import annotations

import calendar
import time

from appliance.store.postgres.connecting import Connection
from appliance.store.postgres.run_schema import DAILY
from appliance.store.runids import MAX_ID, first_of

#: The advisory lock of whoever makes or drops a day.
_LOCK = 1_718_185_075
_DAY = 86_400.0


def bounds(day: str) -> tuple[int, int]:
    """The first run id of a day (``2026-11-20``), and the first one behind it."""
    begin = calendar.timegm(time.strptime(day, "%Y-%m-%d"))
    return first_of(begin), first_of(begin + _DAY)


def partition(table: str, day: str) -> str:
    """The name of a day's part of a table."""
    return f"{table}_{day.replace('-', '')}"


def days(connection: Connection) -> list[str]:
    """The days that there are, newest first."""
    rows = connection.execute(
        "SELECT right(relname, 8) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
        "WHERE inhparent = 'run'::regclass ORDER BY 1 DESC"
    ).fetchall()
    return [f"{name[:4]}-{name[4:6]}-{name[6:]}" for (name,) in rows]


def total_bytes(connection: Connection) -> int:
    """What all days take on the server's disk, with their indexes."""
    found = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits "
        "WHERE inhparent = ANY(%s::regclass[])",
        (list(DAILY),),
    ).fetchone()
    return int(found[0]) if found else 0


def bytes_of(connection: Connection, day: str) -> int:
    """What a day takes on the server's disk, with its indexes."""
    found = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint FROM unnest(%s::text[]) AS name",
        ([partition(table, day) for table in DAILY],),
    ).fetchone()
    return int(found[0]) if found else 0


def make_day(connection: Connection, day: str) -> None:
    """Make a day's parts, if they are not there. Commits of other kernels go on meanwhile."""
    first, behind = bounds(day)
    end = "MAXVALUE" if behind >= MAX_ID else str(behind)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for table in DAILY:
            name = partition(table, day)
            if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
                continue
            # CREATE TABLE … PARTITION OF would wait for every transaction that uses the table; ATTACH does not.
            connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL EXCLUDING INDEXES)".encode())
            attach = f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})"
            connection.execute(attach.encode())


def drop_day(connection: Connection, day: str) -> None:
    """Drop a day with all that is in it. Raises ``psycopg.errors.LockNotAvailable`` while its runs are being read."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        names = ", ".join(partition(table, day) for table in DAILY)
        connection.execute(f"DROP TABLE IF EXISTS {names}".encode())
