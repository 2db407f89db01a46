"""Tasks that were given up: poison that ended its process again and again, and data nobody can read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from appliance.queue.database import Database
from appliance.queue.values import Due

#: Dead tasks beyond this number make room for newer ones: a poison source must not fill the card.
_KEPT = 1000


class DeadTask(NamedTuple):
    """A task that was given up, and why. ``at``: Unix seconds (UTC)."""

    id: int
    data: bytes
    priority: float
    attempts: int
    reason: str
    at: float


class DeadTable:
    """The dead tasks of one queue."""

    def __init__(self, name: str, database: Database, now: Callable[[], float]) -> None:
        self._name = name
        self._db = database
        self._now = now

    def bury(self, connection: sqlite3.Connection, number: int, token: int, reason: str) -> None:
        """Move a leased task here, inside the caller's transaction."""
        self._move(connection, reason, "priority, attempts", "task", "id = ? and token = ?", (number, token))

    def bury_scheduled(self, due: Due, reason: str) -> None:
        """Move a task of the schedule here."""
        self._db.transact(
            lambda connection: self._move(connection, reason, "0, 0", "schedule", "id = ? and data = ?", due)
        )

    def _move(
        self,
        connection: sqlite3.Connection,
        reason: str,
        columns: str,
        table: str,
        where: str,
        which: Sequence[int | bytes],
    ) -> None:
        connection.execute(
            f"""insert into dead (queue, data, reason, at, priority, attempts)
            select queue, data, ?, ?, {columns} from {table} where {where}""",
            (reason, self._now(), *which),
        )
        connection.execute(f"delete from {table} where {where}", which)
        connection.execute("delete from dead where id <= (select max(id) from dead) - ?", (_KEPT,))

    def tasks(self, limit: int = 100) -> list[DeadTask]:
        """The dead tasks, newest first."""
        sql = """select id, data, priority, attempts, reason, at from dead where queue = ?
            order by id desc limit ?"""
        return [DeadTask(*row) for row in self._db.query(sql, (self._name, limit))]

    def revive(self, number: int) -> bool:
        """Put a dead task back into the queue as a new one; False if there is none of this id."""

        def move(connection: sqlite3.Connection) -> bool:
            sql = "delete from dead where queue = ? and id = ? returning queue, data, priority"
            rows = connection.execute(sql, (self._name, number)).fetchall()
            connection.executemany("insert into task (queue, data, priority) values (?, ?, ?)", rows)
            return bool(rows)

        return self._db.transact(move)

    def flush(self) -> None:
        """Delete them all."""
        self._db.execute("delete from dead where queue = ?", (self._name,))
