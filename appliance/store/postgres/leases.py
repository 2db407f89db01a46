"""Leases of kernels that share a database: who may write under which number, and until when.

Times are the server's, so that the machines' clocks need not agree. Every change of a lease's epoch takes the writer's
advisory lock alone, which its commits hold together (``hold_lease`` in the schema): a lease never changes hands in the
middle of a commit, and behind the change no commit of the former holder succeeds.
"""

from __future__ import annotations

from contextlib import closing

from msgspec import Struct

from appliance.store.journal import Lease
from appliance.store.postgres.connecting import Connection, connect, explained

#: The class of the advisory locks; the writer's number is the other half of the key. Also in ``run_schema.py``.
_CLASS = 1_718_185_074


class LeaseRow(Struct, frozen=True):
    """A lease: ``left`` are the seconds until it ends, below 0 if it has ended; ``age`` those since it began."""

    writer: int
    epoch: int
    machine: str
    left: float
    age: float


class Leases:
    """Opens a connection for each call: these are few, and each must not wait behind another."""

    def __init__(self, url: str) -> None:
        self._url = url

    def acquire(self, writer: int, machine: str, seconds: float) -> Lease | None:
        """Become that writer, if nobody is it or its lease has ended. Raises ``StoreError``."""
        with explained(self._url), closing(connect(self._url)) as connection, connection.transaction():
            _lock(connection, writer)
            row = connection.execute(
                "INSERT INTO kernel_lease AS held (writer, epoch, until, machine, since) "
                "VALUES (%(writer)s, 1, now() + %(seconds)s * interval '1 second', %(machine)s, now()) "
                "ON CONFLICT (writer) DO UPDATE SET epoch = held.epoch + 1, until = EXCLUDED.until, "
                "machine = EXCLUDED.machine, since = EXCLUDED.since WHERE held.until <= now() RETURNING epoch",
                {"writer": writer, "seconds": seconds, "machine": machine},
            ).fetchone()
        return None if row is None else Lease(writer, row[0])

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Hold on for so many seconds from now; False if the lease is somebody else's. Raises ``StoreError``."""
        with explained(self._url), closing(connect(self._url)) as connection:
            changed = connection.execute(
                "UPDATE kernel_lease SET until = now() + %s * interval '1 second' WHERE writer = %s AND epoch = %s",
                (seconds, *lease),
            )
            return changed.rowcount > 0

    def release(self, lease: Lease) -> None:
        """Let go; what is under way stays this writer's until somebody takes it. Raises ``StoreError``."""
        with explained(self._url), closing(connect(self._url)) as connection:
            connection.execute("UPDATE kernel_lease SET until = now() WHERE writer = %s AND epoch = %s", lease)

    def all(self) -> list[LeaseRow]:
        """Every lease by its writer's number. Raises ``StoreError``."""
        with explained(self._url), closing(connect(self._url)) as connection:
            rows = connection.execute(
                "SELECT writer, epoch, machine, extract(epoch FROM until - now())::float8, "
                "extract(epoch FROM now() - since)::float8 FROM kernel_lease ORDER BY writer"
            ).fetchall()
        return [LeaseRow(*row) for row in rows]

    def take_over(self, dead: int, lease: Lease) -> int:
        """Make the runs under way of a writer whose lease has ended those of ``lease``; how many these are.

        In one transaction, behind which the former holder cannot commit any more. Nothing is taken while its lease
        holds. Raises ``StoreError``.
        """
        with explained(self._url), closing(connect(self._url)) as connection, connection.transaction():
            for writer in sorted((dead, lease.writer)):
                _lock(connection, writer)
            ours = connection.execute("SELECT 1 FROM kernel_lease WHERE writer = %s AND epoch = %s", lease).fetchone()
            ended = connection.execute(
                "UPDATE kernel_lease SET epoch = epoch + 1 WHERE writer = %s AND until <= now()", (dead,)
            ).rowcount
            if not (ours and ended):
                return 0
            return connection.execute(
                "UPDATE run SET owner = %s WHERE owner = %s AND state < 10", (lease.writer, dead)
            ).rowcount


def _lock(connection: Connection, writer: int) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_CLASS, writer))
