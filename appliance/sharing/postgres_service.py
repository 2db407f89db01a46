"""The shared service in Postgres: unlogged tables (a crash of the server empties them), LISTEN and NOTIFY for boxes.

Every thread has a connection of its own; a commit of these tables waits for no disk.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from appliance.sharing.drivers import driver
from appliance.sharing.service import MESSAGE_AGE, ServiceAway

_CONNECT = 3
# A server that was unplugged is noticed within 15 seconds.
_LINK = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
_CLOCK_AGE = 60.0
_TIDY_EVERY = 60.0
#: Any number that nobody else's advisory locks use: only one process makes the tables.
_LOCK = 0x666C6F776F726B
_SCHEMA = """
CREATE UNLOGGED TABLE IF NOT EXISTS shared_box (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, box text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(), data bytea NOT NULL);
CREATE INDEX IF NOT EXISTS shared_box_of ON shared_box (box, id);
CREATE UNLOGGED TABLE IF NOT EXISTS shared_bucket (
  key text PRIMARY KEY, level double precision NOT NULL, granted boolean NOT NULL,
  at timestamptz NOT NULL, until timestamptz NOT NULL);
CREATE UNLOGGED TABLE IF NOT EXISTS shared_value (
  key text PRIMARY KEY, value bytea NOT NULL, until timestamptz NOT NULL);
"""
_REFILLED = "least(%(burst)s::float8, kept.level + greatest(0, extract(epoch FROM now() - kept.at))::float8 * %(rate)s)"
_TAKE = f"""
INSERT INTO shared_bucket AS kept (key, level, granted, at, until)
VALUES (%(key)s, %(burst)s::float8 - %(cost)s, true, now(), now() + make_interval(secs => %(full)s))
ON CONFLICT (key) DO UPDATE SET
  granted = {_REFILLED} >= %(cost)s,
  level = {_REFILLED} - CASE WHEN {_REFILLED} >= %(cost)s THEN %(cost)s ELSE 0 END,
  at = now(), until = excluded.until
RETURNING level, granted
"""


class PostgresService:
    """See :class:`appliance.sharing.service.Service`."""

    def __init__(self, url: str, name: str) -> None:
        self._psycopg = driver("psycopg", "postgres")
        self._url = url
        self._prefix = f"{name}:"
        self._local = threading.local()
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._made = False
        self._offset: tuple[float, float] | None = None
        self._tidied = 0.0
        self._closed = False

    def clock(self) -> float:
        """See the protocol."""
        now = time.monotonic()
        known = self._offset
        if known is None or now - known[0] > _CLOCK_AGE:
            moment = float(self._one("SELECT extract(epoch FROM clock_timestamp())::float8"))
            known = self._offset = (now, moment - (now + time.monotonic()) / 2)
        return time.monotonic() + known[1]

    def send(self, box: str, data: bytes) -> None:
        """See the protocol."""
        name = self._prefix + box
        self._tidy()
        self._one(
            "WITH put AS (INSERT INTO shared_box (box, data) VALUES (%s, %s) RETURNING id) "
            "SELECT pg_notify(%s, '') FROM put",
            (name, data, _channel(name)),
        )

    def receive(self, box: str, timeout: float) -> list[bytes]:
        """See the protocol."""
        name = self._prefix + box
        with self._explained():
            connection = self._connection()
            if getattr(self._local, "listens", "") != name:
                connection.execute(f'LISTEN "{_channel(name)}"')
                self._local.listens = name
            found = self._emptied(connection, name)
            if not found and timeout > 0:
                for _ in connection.notifies(timeout=timeout, stop_after=1):
                    pass
                found = self._emptied(connection, name)
            return found

    def _emptied(self, connection: Any, name: str) -> list[bytes]:
        rows = connection.execute(
            "DELETE FROM shared_box WHERE box = %s RETURNING id, data", (name,), prepare=True
        ).fetchall()
        return [bytes(data) for _, data in sorted(rows)]

    def take(self, key: str, per_second: float, burst: float, cost: float) -> float:
        """See the protocol."""
        values = {"key": self._prefix + key, "burst": burst, "cost": cost, "rate": per_second}
        level, granted = self._row(_TAKE, {**values, "full": burst / per_second + 1.0})
        return float(level) if granted else -(cost - float(level)) / per_second

    def put_new(self, key: str, value: bytes, age: float) -> bytes | None:
        """See the protocol."""
        sql = """
            INSERT INTO shared_value AS kept (key, value, until) VALUES (%s, %s, now() + make_interval(secs => %s))
            ON CONFLICT (key) DO UPDATE SET value = excluded.value, until = excluded.until WHERE kept.until <= now()
            RETURNING 1"""
        name = self._prefix + key
        while self._one(sql, (name, value, age)) is None:
            found = self._one("SELECT value FROM shared_value WHERE key = %s AND until > now()", (name,))
            if found is not None:
                return bytes(found)
        return None

    def put(self, key: str, value: bytes, age: float) -> None:
        """See the protocol."""
        sql = """
            INSERT INTO shared_value (key, value, until) VALUES (%s, %s, now() + make_interval(secs => %s))
            ON CONFLICT (key) DO UPDATE SET value = excluded.value, until = excluded.until"""
        self._one(sql, (self._prefix + key, value, age))

    def drop(self, key: str) -> None:
        """See the protocol."""
        self._one("DELETE FROM shared_value WHERE key = %s", (self._prefix + key,))

    def close(self) -> None:
        """See the protocol."""
        self._closed = True
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            connection.close()

    # --- connections ---------------------------------------------------------------------------------

    def _one(self, sql: str, values: Any = ()) -> Any:
        """The first value of the first row, or None."""
        row = self._row(sql, values)
        return row[0] if row is not None else None

    def _row(self, sql: str, values: Any = ()) -> Any:
        """The first row, or None."""
        with self._explained():
            cursor = self._connection().execute(sql, values, prepare=True)
            return cursor.fetchone() if cursor.description is not None else None

    def _connection(self) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is not None and not connection.closed:
            return connection
        if self._closed:
            raise ServiceAway("the connection to the cluster's Postgres was closed")
        connection = self._psycopg.connect(
            self._url, autocommit=True, connect_timeout=_CONNECT, application_name="flowork-bus", **_LINK
        )
        with self._lock:
            self._open = {kept for kept in self._open if not kept.closed} | {connection}
            if not self._made:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    connection.execute(_SCHEMA)
                self._made = True
        # No commit here is worth waiting for a disk, and none may wait long for anybody.
        connection.execute("SET synchronous_commit = off; SET statement_timeout = '10s'")
        self._local.connection, self._local.listens = connection, ""
        return connection

    def _tidy(self) -> None:
        """Now and then drop what nobody came for."""
        now = time.monotonic()
        if now < self._tidied:
            return
        self._tidied = now + _TIDY_EVERY
        self._one("DELETE FROM shared_box WHERE at < now() - make_interval(secs => %s)", (MESSAGE_AGE,))
        self._one("DELETE FROM shared_value WHERE until <= now()")
        self._one("DELETE FROM shared_bucket WHERE until <= now()")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (self._psycopg.Error, OSError) as exc:
            host = urlsplit(self._url).hostname
            raise ServiceAway(f"the cluster's Postgres at {host} cannot be used: {exc}") from None


def _channel(box: str) -> str:
    """A name that LISTEN takes (63 bytes) for a box of any name."""
    return f"flowork_{hashlib.blake2b(box.encode(), digest_size=16).hexdigest()}"
