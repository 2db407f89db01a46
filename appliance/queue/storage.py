"""Huey's storage over ``queue.db``: a task that was taken stays leased until it is acknowledged.

Huey's own SQLite storage deletes a task before it runs it and so forgets what was in flight when the power
went. Here :meth:`LeasedSqliteStorage.claim` leases the row; :meth:`~LeasedSqliteStorage.acknowledge` deletes
it after the work. A lease whose process is dead, or that has run out, makes the task claimable again; one
that was taken too often without being finished goes to the ``dead`` table instead of crashing for ever.

A task is therefore run at least once. Reads never write, so an idle queue leaves the disk alone.
"""

from __future__ import annotations

import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from appliance.queue import owner
from appliance.queue.bell import Doorbell
from appliance.queue.database import Database
from appliance.queue.dead import DeadTable
from appliance.queue.errors import QueueError
from appliance.queue.values import Due, SqliteValues

_WAITING = "select 1 from task where queue = ? and owner is null limit 1"
_CLAIM = """update task set owner = ?, token = ?, lease_until = ?, attempts = attempts + 1
    where id = (select id from task where queue = ? and owner is null order by priority desc, id limit 1)
    returning id, token, data, attempts"""
_PENDING = "select 1 from task where queue = ? and once = ? and owner is null limit 1"
_LEASED = "select id, token, attempts, owner, lease_until from task where queue = ? and owner is not null"
_RELEASE = "update task set owner = null, token = null, lease_until = null where id = ? and token = ?"
_INSERT = "insert into task (queue, data, priority, once) values (?, ?, ?, ?)"
_DELETE = "delete from task where id = ? and token = ?"
#: Seconds between looks for leases that were lost, and between clearings of expired keys.
_LOOK_EVERY = 1.0
_CLEAR_EVERY = 60.0


class Claim(NamedTuple):
    """A leased task. ``token`` is new with every claim, so a late acknowledgement hits nobody else's."""

    id: int
    token: int
    data: bytes
    attempts: int


class LeasedSqliteStorage(SqliteValues):
    """All methods are safe from any thread, and raise ``QueueError`` when the file cannot be used.

    ``lease`` and ``recheck`` are seconds: how long a claim holds without being renewed, and how long a
    waiting worker sleeps at most before it reads again in case a ring was lost. ``clock`` must be the same
    for all processes of the machine and must not jump (so not the time of day).
    """

    blocking = True
    priority = True

    def __init__(
        self,
        name: str = "huey",
        *,
        path: Path,
        synchronous: str = "NORMAL",
        lease: float = 60.0,
        recheck: float = 1.0,
        max_attempts: int = 5,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, Database(path, synchronous), now)
        self.dead = DeadTable(name, self._db, now)
        self._bell = Doorbell(Path(f"{path}.bell"))
        self._lease = lease
        self._recheck = recheck
        self._max_attempts = max_attempts
        self._clock = clock
        self._held: dict[Claim, float] = {}
        self._done: set[Claim] = set()
        self._books = threading.Lock()
        self._next_look = self._next_clearing = float("-inf")

    def close(self) -> None:
        """Send waiting workers away and close the files; the next use opens them again."""
        self._bell.close()
        self._db.close()

    def wake(self) -> None:
        """Make this process's workers that wait in :meth:`claim` or :meth:`dequeue` come back now."""
        self._bell.wake()

    # --- putting in -------------------------------------------------------------------------------

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        """Add a task; a higher priority is taken first, the same in order. Wakes a waiting worker."""
        self._db.execute(_INSERT, (self.name, data, priority or 0, None))
        self._ring()

    def enqueue_once(self, key: bytes, data: bytes, priority: float | None = None) -> None:
        """Add a task unless one with this ``key`` is waiting already (one under way does not count)."""
        if not self._db.query(_PENDING, (self.name, key)):
            self._db.transact(lambda connection: self._insert_once(connection, key, data, priority or 0))
        self._ring()

    def _insert_once(self, connection: sqlite3.Connection, key: bytes, data: bytes, priority: float) -> None:
        if not connection.execute(_PENDING, (self.name, key)).fetchone():
            connection.execute(_INSERT, (self.name, data, priority, key))

    def promote(self, tasks: Iterable[tuple[Due, bytes, float | None]]) -> None:
        """Move due tasks from the schedule to the queue, each as the given data with the given priority."""
        moved = list(tasks)

        def move(connection: sqlite3.Connection) -> None:
            for due, data, priority in moved:
                # Another process's scheduler may have been quicker, and its number given to another task.
                sql = "delete from schedule where id = ? and data = ?"
                if connection.execute(sql, (due.id, due.data)).rowcount:
                    connection.execute(_INSERT, (self.name, data, priority or 0, None))

        self._db.transact(move)
        self._ring()

    def _ring(self) -> None:
        self._bell.open()
        self._bell.ring()

    # --- taking out -------------------------------------------------------------------------------

    def claim(self, timeout: float | None = None) -> Claim | None:
        """Lease the next task, waiting for one at most ``timeout`` seconds (default: ``recheck``)."""
        self._look_for_lost()
        claim = self._claim_now()
        if claim is not None:
            return claim
        self._bell.open()
        if self._bell.wait(self._recheck if timeout is None else timeout):
            claim = self._claim_now()
            if claim is not None and self._db.query(_WAITING, (self.name,)):
                self._bell.ring()  # This worker took the rings of all: pass it on to the next.
        return claim

    def _claim_now(self) -> Claim | None:
        if not self._db.query(_WAITING, (self.name,)):
            return None
        until = self._clock() + self._lease
        with self._books:
            # Inside the lock: between the claim and the entry no look may take it for lost.
            values = (owner.this_process(), random.getrandbits(62), until, self.name)
            rows = self._db.query(_CLAIM, values)
            if not rows:
                return None
            claim = Claim(*rows[0])
            self._held[claim] = until
        return claim

    def dequeue(self) -> bytes | None:
        """Take out the next task for good, as Huey's contract has it; workers use :meth:`claim`."""
        claim = self.claim()
        if claim is None:
            return None
        try:
            self.acknowledge(claim)
        except QueueError:
            self.abandon(claim)
            raise
        return claim.data

    def acknowledge(self, claim: Claim) -> bool:
        """The task is done: delete it. False: the lease was lost before, so it may run again.

        If the file cannot be written just now the claim is kept, and :meth:`keep` tries again.
        """
        try:
            found = self._db.execute(_DELETE, (claim.id, claim.token)) == 1
        except QueueError:
            with self._books:
                self._done.add(claim)
            raise
        self._let_go(claim)
        return found

    def abandon(self, claim: Claim) -> None:
        """Stop renewing: the task is claimable again when its lease has run out."""
        self._let_go(claim)

    def bury(self, claim: Claim, reason: str) -> None:
        """Give the task up: move it to the dead table."""
        self._db.transact(lambda connection: self.dead.bury(connection, claim.id, claim.token, reason))
        self._let_go(claim)

    def _let_go(self, claim: Claim) -> None:
        with self._books:
            self._held.pop(claim, None)
            self._done.discard(claim)

    # --- leases -----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Renew the leases under way, finish what :meth:`acknowledge` could not. Call it about each second.

        Writes only when there is something to do.
        """
        with self._books:
            done = list(self._done)
            held = [claim for claim in self._held if claim not in self._done]
        for claim in done:
            self.acknowledge(claim)
        now = self._clock()
        if any(self._held.get(claim, now + self._lease) < now + self._lease * 2 / 3 for claim in held):
            self._renew(held, now + self._lease)
        if now >= self._next_clearing:
            self._next_clearing = now + _CLEAR_EVERY
            self.clear_expired()

    def _renew(self, claims: list[Claim], until: float) -> None:
        def renew(connection: sqlite3.Connection) -> None:
            sql = "update task set lease_until = ? where id = ? and token = ?"
            connection.executemany(sql, [(until, claim.id, claim.token) for claim in claims])

        self._db.transact(renew)
        with self._books:
            self._held.update((claim, until) for claim in claims if claim in self._held)

    def _look_for_lost(self) -> None:
        """Make tasks claimable whose process is dead or whose lease has run out."""
        now = self._clock()
        with self._books:
            if now < self._next_look:
                return
            self._next_look = now + _LOOK_EVERY
            rows = self._db.query(_LEASED, (self.name,))
            held = {claim.token for claim in self._held}
        is_dead = functools.cache(owner.is_dead)
        lost = [
            (row, is_dead(holder))
            for *row, holder, until in rows
            # Our own running tasks are never taken from us, however late their renewal is.
            if row[1] not in held and (until <= now or is_dead(holder))
        ]
        if lost:
            self._db.transact(lambda connection: self._release(connection, lost))
            self._bell.ring()

    def _release(self, connection: sqlite3.Connection, lost: list[tuple[list[int], bool]]) -> None:
        for (number, token, attempts), died in lost:
            if attempts < self._max_attempts:
                connection.execute(_RELEASE, (number, token))
            else:
                end = "the process that worked on it died" if died else "its lease ran out"
                reason = (
                    f"taken {'once' if attempts == 1 else f'{attempts} times'} and never finished; the last time {end}"
                )
                self.dead.bury(connection, number, token, reason)

    # --- looking in -------------------------------------------------------------------------------

    def queue_size(self) -> int:
        """The number of tasks that wait; those under way are not counted."""
        return self._count("task", "owner is null")

    def enqueued_items(self, limit: int | None = None) -> list[bytes]:
        """The waiting tasks in the order in which they will be taken."""
        sql = "select data from task where queue = ? and owner is null order by priority desc, id limit ?"
        return [data for (data,) in self._db.query(sql, (self.name, limit or -1))]

    def flush_queue(self) -> None:
        """Delete all tasks, those under way and the dead ones too."""
        self._db.execute("delete from task where queue = ?", (self.name,))
        self.dead.flush()
