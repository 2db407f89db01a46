"""The part of the store that is ``flowork.db`` elsewhere, in Postgres: a few connections a process.

SQLite lets one write transaction in at a time (``BEGIN IMMEDIATE``), and the repositories rely on it: they read, decide
and write. Here an advisory lock, taken first thing in each write transaction, does the same for all machines. Every
statement sees what was committed before it (READ COMMITTED), so that behind the lock nothing is out of date.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from appliance.store.database import BUSY_TIMEOUT, Database, Row
from appliance.store.errors import StoreError
from appliance.store.postgres.connecting import Connection, connect, explain, is_lost
from appliance.store.sql import Insert, PeeweeException, PostgresqlDatabase, Psycopg3Adapter, Query

#: Connections that read at the same time; further readers wait for one.
READERS = 4
#: The advisory lock of whoever writes.
_WRITER = 1_718_185_073
#: Tables whose new rows have a number that is asked for (``Database.run``).
_NUMBERED = {"flow": "num", "version": "id", "deployment": "id"}


class _Adapter(Psycopg3Adapter):
    """What peewee asks its driver; peewee itself was loaded without one."""

    txn_idle, txn_inerror, txn_unknown = TransactionStatus.IDLE, TransactionStatus.INERROR, TransactionStatus.UNKNOWN

    def check_driver(self) -> None:
        """It is here."""

    def get_binary_type(self) -> Any:
        return psycopg.Binary

    def connect(self, db: PostgresqlDatabase, **params: Any) -> Connection:
        return connect(db.database, busy=params["busy"])


class _Peewee(PostgresqlDatabase):
    """One connection, as peewee's queries need it."""

    psycopg2_adapter = psycopg3_adapter = _Adapter

    def lock(self) -> None:
        """Wait for everybody else's writes, until the transaction ends."""
        self.connection().execute("SELECT pg_advisory_xact_lock(%s)", (_WRITER,))  # type: ignore[no-untyped-call]

    def lost(self) -> bool:
        """True if it cannot be used any more."""
        return not self.is_closed() and is_lost(self.connection())  # type: ignore[no-untyped-call]


class PostgresDatabase(Database):
    """Reads on a small pool of connections, writes on one of their own."""

    def __init__(self, url: str, busy: float = BUSY_TIMEOUT) -> None:
        self._url = url
        self._busy = busy
        self._inherited: list[Any] = []
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._owner = 0  # the thread inside write(), if any
        self._write_lock = threading.Lock()
        self._room = threading.BoundedSemaphore(READERS)
        self._idle: list[_Peewee] = []
        self._writer = self._connection()

    def _connection(self) -> _Peewee:
        return _Peewee(self._url, thread_safe=False, busy=self._busy)

    def _after_fork(self) -> None:
        # What was inherited is neither used nor closed: the server would end the parent's session.
        if self._pid != os.getpid():
            self._inherited += [self._writer, *self._idle]
            self._renew()

    def close(self) -> None:
        self._after_fork()
        with self._write_lock:
            _drop(self._writer)
        self._forget_idle()

    def all(self, query: Query) -> list[Row]:
        self._after_fork()
        if self._owner == threading.get_ident():
            with self._explained():
                return list(query.execute(self._writer))
        with self._room, self._explained():
            return self._read(query)

    def _read(self, query: Query) -> list[Row]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connection()
        fresh = connection.is_closed()
        try:
            rows = list(query.execute(connection))
        except PeeweeException:
            if connection.is_closed() or not connection.lost():
                self._idle.append(connection)
                raise
            _drop(connection)
            if fresh:
                raise
            # The server was started again since this connection was last used, and so it was with all the others.
            self._forget_idle()
            return self._read(query)
        except BaseException:
            _drop(connection)
            raise
        self._idle.append(connection)
        return rows

    def _forget_idle(self) -> None:
        with suppress(IndexError):
            while True:
                _drop(self._idle.pop())

    @contextmanager
    def write(self) -> Iterator[None]:
        self._after_fork()
        if self._owner == threading.get_ident():
            with self._writer.savepoint():
                yield
            return
        with self._write_lock:
            with self._explained():
                self._begin()
            self._owner = threading.get_ident()
            try:
                yield
                with self._explained():
                    self._writer.commit()
            except BaseException:
                with suppress(PeeweeException, psycopg.Error):
                    self._writer.rollback()
                raise
            finally:
                self._owner = 0
                if self._writer.lost():
                    _drop(self._writer)

    def _begin(self) -> None:
        """Begin behind everybody else's writes. Nothing has happened yet: a lost connection is worth a second try."""
        for last in (False, True):
            fresh = self._writer.is_closed()
            try:
                self._writer.begin()
                self._writer.lock()
                return
            except (PeeweeException, psycopg.Error):
                lost = self._writer.lost()
                if lost:
                    _drop(self._writer)
                else:
                    with suppress(PeeweeException, psycopg.Error):
                        self._writer.rollback()
                if last or fresh or not lost:
                    raise

    def run(self, query: Query) -> int:
        if self._owner != threading.get_ident():
            raise RuntimeError("a change of the database needs `with database.write():` around it")
        with self._explained():
            if not isinstance(query, Insert):
                return int(query.execute(self._writer) or 0)
            number = _NUMBERED.get(query.table.__name__)
            if number is None:
                return int(query.as_rowcount().execute(self._writer) or 0)
            rows = list(query.returning(getattr(query.table, number)).execute(self._writer))
            return int(rows[0][number])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PeeweeException as exc:
            cause: BaseException = exc
            while (inner := getattr(cause, "orig", None)) is not None:
                cause = inner  # peewee wraps an error once for every block that it leaves
            raise explain(cause, self._url) from exc
        except psycopg.Error as exc:
            raise explain(exc, self._url) from exc
        except (OverflowError, UnicodeEncodeError) as exc:
            raise StoreError(f"a value cannot be stored: {exc}", retryable=False) from exc


def _drop(connection: _Peewee) -> None:
    """Close, also what is broken."""
    with suppress(PeeweeException, psycopg.Error):
        if not connection.is_closed():
            connection.close()
