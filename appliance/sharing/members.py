"""Who belongs to a cluster: numbers and leases of kernels and gateways, and which kernel is each flow's home.

All in the database that holds the journal, so that a change of ownership is one transaction with it. Times are the
server's: no machine's clock counts. How it fits together: ``docs/decisions/sharing.md``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator

from msgspec import Struct

from appliance.contracts import FlowError
from appliance.store.errors import LeaseLost
from appliance.store.journal import Lease
from appliance.store.postgres.connecting import Connection, connect, explained, is_lost

#: Seconds that a lease lasts without being renewed, and between two renewals.
LEASE, RENEW = 10.0, 2.0
#: Numbers there are (see ``appliance/store/runids.py``).
NUMBERS = 64
#: The first number of the advisory locks that commits hold together and a taker-over alone (``run_schema.py``).
FENCES = 1718185074
#: Only one process takes a number at a time.
_JOINING = 0x666C6F776A6F696E
KERNEL, GATEWAY = "kernel", "gateway"
#: Who only asks: a command of the command line. It takes no number.
VISITOR = "visitor"
#: A command that hands something in, which needs a number for a moment: each its own.
COMMAND = "command"


class Crowded(FlowError):
    """All 64 numbers are taken."""

    id = "cluster-full"


class Member(Struct, frozen=True):
    """One kernel or gateway. ``left``: seconds until its lease ends, negative behind that; ``up``: seconds since it has
    come up, negative before that.

    ``place`` tells one installation from another: whoever comes again from the same place is the same member.
    """

    writer: int
    epoch: int
    role: str
    machine: str
    place: str
    left: float
    up: float

    @property
    def alive(self) -> bool:
        return self.left > 0

    @property
    def works(self) -> bool:
        """It lives and has come up."""
        return self.left > 0 and self.up >= 0

    @property
    def box(self) -> str:
        """Where messages for it go: another life has another box."""
        return f"{self.role}.{self.writer}.{self.epoch}"


def reachable(url: str) -> None:
    """Raises ``StoreAway`` while there is no server, and ``StoreError`` for what waiting does not mend."""
    with explained(url):
        connect(url, name="flowork cluster", patience=3.0).close()


class Members:
    """The cluster as the database has it. Safe from any thread, one at a time. Raises ``StoreError``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.RLock()
        self._connection: Connection | None = None

    def close(self) -> None:
        """Let go of the connection. Twice is fine."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection]:
        """The connection, in a transaction."""
        with self._lock, explained(self._url):
            if self._connection is None or is_lost(self._connection):
                self._connection = connect(self._url, name="flowork cluster", patience=3.0)
                # Nothing here may hang: who cannot renew its lease has to know soon.
                self._connection.execute("SET statement_timeout = '4s'; SET lock_timeout = '2s'")
            try:
                with self._connection.transaction():
                    yield self._connection
            except BaseException:
                if is_lost(self._connection):
                    self._connection.close()
                    self._connection = None
                raise

    @contextlib.contextmanager
    def holding(self, lease: Lease) -> Iterator[Connection]:
        """A transaction in which our own lease stays ours. Raises ``LeaseLost``."""
        with self._session() as session:
            self._hold(session, lease)
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction for who only looks."""
        with self._session() as session:
            yield session

    def proof(self, mine: str) -> str:
        """What shows that somebody has the cluster's keys; the first to come says it."""
        with self._session() as session:
            session.execute("INSERT INTO cluster_key VALUES (true, %s) ON CONFLICT DO NOTHING", (mine,))
        return self.known_proof()

    def known_proof(self) -> str:
        """What the first to come has said; empty in a database that nobody has used yet."""
        with self._session() as session:
            row = session.execute("SELECT proof FROM cluster_key").fetchone()
            return str(row[0]) if row is not None else ""

    # --- leases --------------------------------------------------------------------------------------

    def join(self, role: str, machine: str, place: str) -> Lease:
        """Take a number: that of the life before at this place, which is ended with it, else a free one.

        Raises ``Crowded``.
        """
        with self._session() as session:
            session.execute("SELECT pg_advisory_xact_lock(%s)", (_JOINING,))
            rows = session.execute(_MEMBERS).fetchall()
            members = [Member(*row) for row in rows]
            mine = next((one.writer for one in members if (one.role, one.place) == (role, place)), None)
            number = mine if mine is not None else self._free(session, members)
            self._alone(session, number)
            sql = """
                INSERT INTO kernel_lease AS kept (writer, epoch, until, machine, since, role, place)
                VALUES (%s, 1, now() + make_interval(secs => %s), %s, now(), %s, %s)
                ON CONFLICT (writer) DO UPDATE SET epoch = kept.epoch + 1, until = excluded.until, since = now(),
                    machine = excluded.machine, role = excluded.role, place = excluded.place,
                    ready = NULL, ended = NULL
                RETURNING epoch"""
            row = session.execute(sql, (number, LEASE, machine, role, place)).fetchone()
            assert row is not None
            return Lease(number, row[0])

    def _free(self, session: Connection, members: Collection[Member]) -> int:
        """A number that nobody has, or that of somebody who is long gone and left nothing behind."""
        taken = {one.writer for one in members}
        for number in range(NUMBERS):
            if number not in taken:
                return number
        left = """SELECT writer FROM kernel_lease AS one WHERE until < now() - interval '1 minute'
            AND NOT EXISTS (SELECT 1 FROM flow_home WHERE writer = one.writer)
            AND NOT EXISTS (SELECT 1 FROM run WHERE owner = one.writer AND state < 10) ORDER BY until LIMIT 1"""
        row = session.execute(left).fetchone()
        if row is None:
            raise Crowded(f"{NUMBERS} kernels and gateways are in the cluster, which is as many as there can be")
        return int(row[0])

    def renew(self, lease: Lease) -> None:
        """Hold the lease for another :data:`LEASE` seconds from now. Raises ``LeaseLost``."""
        with self._session() as session:
            sql = (
                "UPDATE kernel_lease SET until = now() + make_interval(secs => %s) "
                "WHERE writer = %s AND epoch = %s AND ended IS NULL"
            )
            if session.execute(sql, (LEASE, lease.writer, lease.epoch)).rowcount != 1:
                raise LeaseLost("another kernel has taken over from this one")

    def ready(self, lease: Lease) -> None:
        """Say that the holder has come up: from now on flows may move to it. Raises ``LeaseLost``."""
        with self._session() as session:
            self._hold(session, lease)
            session.execute("UPDATE kernel_lease SET ready = now() WHERE writer = %s", (lease.writer,))

    def leave(self, lease: Lease) -> None:
        """End the lease: whoever looks next takes over what is left."""
        with self._session() as session:
            sql = "UPDATE kernel_lease SET ended = now() WHERE writer = %s AND epoch = %s AND ended IS NULL"
            session.execute(sql, (lease.writer, lease.epoch))

    def all(self) -> list[Member]:
        """Everybody who ever had a number, the dead ones too, by number."""
        with self._session() as session:
            return [Member(*row) for row in session.execute(_MEMBERS).fetchall()]

    def _alone(self, session: Connection, writer: int) -> None:
        """No commit of this writer is under way from here to the transaction's end, and none begins.

        One that is held up, because its process was frozen in the middle or its machine was cut off, is cut off here.
        """
        sql = "SELECT pg_try_advisory_xact_lock(%s, %s)"
        if session.execute(sql, (FENCES, writer)).fetchone() == (True,):
            return
        session.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s "
            "AND objid = %s AND granted AND pid <> pg_backend_pid() AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())",
            (FENCES, writer),
        )
        session.execute("SELECT pg_advisory_xact_lock(%s, %s)", (FENCES, writer))

    # --- homes of flows --------------------------------------------------------------------------------

    def homes(self) -> dict[int, int]:
        """The writer of each flow's home kernel."""
        with self._session() as session:
            return dict(session.execute("SELECT flow, writer FROM flow_home").fetchall())

    def homes_of(self, writer: int) -> set[int]:
        """The flows that are at home at one kernel."""
        with self._session() as session:
            return {row[0] for row in session.execute("SELECT flow FROM flow_home WHERE writer = %s", (writer,))}

    def left_behind(self, writers: Collection[int]) -> set[int]:
        """Those of these writers that have flows or runs under way."""
        with self._session() as session:
            sql = """SELECT writer FROM flow_home WHERE writer = ANY(%s)
                UNION SELECT owner FROM run WHERE owner = ANY(%s) AND state < 10"""
            return {row[0] for row in session.execute(sql, (list(writers), list(writers)))}

    def claim(self, lease: Lease, flows: Collection[int]) -> set[int]:
        """Become the home of those of these flows that have none; returns which. Raises ``LeaseLost``."""
        with self._session() as session:
            self._hold(session, lease)
            sql = """INSERT INTO flow_home (flow, writer, since) SELECT flow, %s, now()
                FROM unnest(%s::bigint[]) AS mine(flow) ORDER BY flow ON CONFLICT DO NOTHING RETURNING flow"""
            return {row[0] for row in session.execute(sql, (lease.writer, sorted(flows)))}

    def take_over(self, lease: Lease, dead: Member, choose: Callable[[set[int]], Collection[int]]) -> set[int]:
        """Take over flows, with their runs, of a member whose lease has ended; ``choose`` says which of them.

        Returns those taken; none if the member lives after all. From here on it can commit nothing. Raises
        ``LeaseLost`` if the lease of the taker itself was lost.
        """
        with self._session() as session:
            self._hold(session, lease)
            self._alone(session, dead.writer)
            sql = """UPDATE kernel_lease SET epoch = epoch + 1, ended = coalesce(ended, now())
                WHERE writer = %s AND epoch = %s AND (until < now() OR ended IS NOT NULL)"""
            if session.execute(sql, (dead.writer, dead.epoch)).rowcount != 1:
                return set()
            left = """SELECT flow FROM flow_home WHERE writer = %s
                UNION SELECT flow FROM run WHERE owner = %s AND state < 10"""
            flows = {row[0] for row in session.execute(left, (dead.writer, dead.writer))}
            taken = set(choose(flows)) & flows
            if taken:
                self._give(session, dead.writer, lease.writer, taken)
            return taken

    def hand_over(self, lease: Lease, to: Member, flows: Collection[int]) -> bool:
        """Make a living kernel the home of flows of ours, with their runs; False if it lives no more.

        Raises ``LeaseLost``.
        """
        with self._session() as session:
            self._hold(session, lease)
            alive = """SELECT 1 FROM kernel_lease
                WHERE writer = %s AND epoch = %s AND until > now() AND ended IS NULL FOR SHARE"""
            if session.execute(alive, (to.writer, to.epoch)).fetchone() is None:
                return False
            self._give(session, lease.writer, to.writer, set(flows))
            return True

    def _give(self, session: Connection, giver: int, taker: int, flows: set[int]) -> None:
        numbers = sorted(flows)
        home = """INSERT INTO flow_home AS kept (flow, writer, since) SELECT flow, %s, now()
            FROM unnest(%s::bigint[]) AS mine(flow) ORDER BY flow
            ON CONFLICT (flow) DO UPDATE SET writer = excluded.writer, since = now() WHERE kept.writer = %s"""
        session.execute(home, (taker, numbers, giver))
        runs = "UPDATE run SET owner = %s WHERE owner = %s AND state < 10 AND flow = ANY(%s)"
        session.execute(runs, (taker, giver, numbers))

    def _hold(self, session: Connection, lease: Lease) -> None:
        """Our own lease stays ours until the transaction's end. Raises ``LeaseLost``."""
        session.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (FENCES, lease.writer))
        held = session.execute("SELECT 1 FROM kernel_lease WHERE writer = %s AND epoch = %s", lease).fetchone()
        if held is None:
            raise LeaseLost("another kernel has taken over from this one")


_MEMBERS = """SELECT writer, epoch, role, machine, place,
    CASE WHEN ended IS NULL THEN extract(epoch FROM until - now())::float8 ELSE -1 END,
    coalesce(extract(epoch FROM now() - ready), -1)::float8 FROM kernel_lease ORDER BY writer"""
