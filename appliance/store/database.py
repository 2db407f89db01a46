"""One open database of flows, people and settings: what the repositories use, and ``flowork.db`` as one of its kinds.

Everything that is special about SQLite is in this file, ``sqlite_file.py`` and ``migrations.py``, what is special about
Postgres in ``postgres/``; the repositories build portable queries.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from appliance.store.errors import StoreError, explain
from appliance.store.sql import PeeweeException, Query, SqliteDatabase
from appliance.store.tables import COUNTER

Row = dict[str, Any]

#: Seconds a write waits for the lock of another process.
BUSY_TIMEOUT = 5.0

_PRAGMAS = (
    ("journal_mode", "wal"),
    ("synchronous", "full"),
    ("foreign_keys", "on"),
    ("trusted_schema", "off"),
    ("cache_size", -1024),  # KiB; the default of 2 MB for each connection is more than the whole file
    ("journal_size_limit", 4 * 1024 * 1024),
)


class Database(ABC):
    """Typed access for the repositories. Every error leaves as a ``StoreError``. Safe from any thread.

    After a fork (gunicorn ``--preload``) the child opens connections of its own.
    """

    @abstractmethod
    def close(self) -> None:
        """Close all connections; twice is fine, and a later use opens them again."""

    # --- reading ---

    @abstractmethod
    def all(self, query: Query) -> list[Row]:
        """Every row of a query."""

    def one(self, query: Query) -> Row | None:
        """The first row, if there is one."""
        rows = self.all(query.limit(1))
        return rows[0] if rows else None

    def value(self, query: Query, default: Any = None) -> Any:
        """The first column of the first row; ``default`` if there is no row or it is NULL."""
        row = self.one(query)
        found = next(iter(row.values())) if row else None
        return default if found is None else found

    # --- writing ---

    @abstractmethod
    def write(self) -> AbstractContextManager[None]:
        """A write transaction: all of the block or nothing. Inside another one: a savepoint of it.

        Reads of the same thread inside the block see what it has written. Nobody else, in whatever process, is in
        such a block at the same time: what was read in it still holds when it writes.
        """

    @abstractmethod
    def run(self, query: Query) -> int:
        """Execute inside :meth:`write`; the rows changed (for an insert: the new row's id)."""

    # --- noticing changes ---

    def bump(self, counter: str) -> None:
        """Tell other processes, with this transaction, that what ``counter`` names has changed."""
        self.run(
            COUNTER.insert({"name": counter, "value": 1}).on_conflict(
                conflict_target=["name"], update={COUNTER.value: COUNTER.value + 1}
            )
        )

    def counters(self) -> dict[str, int]:
        """How often each kind of thing has changed; cheap enough to ask several times a second."""
        return {row["name"]: row["value"] for row in self.all(COUNTER.select())}


class FileDatabase(Database):
    """``flowork.db``: reads on one connection, short write transactions on another.

    WAL lets reads go on while a write waits for the disk, also the writes of other processes. Two connections a
    process, each behind a lock, are enough for a small database and cost far less memory than one for each of the
    gateway's threads. SQLite forbids using, and even closing, connections that a fork has inherited.
    """

    def __init__(self, path: Path, busy: float = BUSY_TIMEOUT) -> None:
        self.path = path
        self._busy = busy
        self._inherited: list[SqliteDatabase] = []
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._owner = 0  # the thread inside write(), if any
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._reader = self._connection(("query_only", "on"))
        self._writer = self._connection()

    def _connection(self, *extra: tuple[str, str]) -> SqliteDatabase:
        # mode=rw: a file that has vanished is an error, never silently a new empty database.
        return SqliteDatabase(
            self.path.absolute().as_uri() + "?mode=rw",
            pragmas=[*_PRAGMAS, *extra],
            thread_safe=False,
            timeout=self._busy,
            uri=True,
            check_same_thread=False,
        )

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._inherited += [self._reader, self._writer]
            self._renew()

    def close(self) -> None:
        self._after_fork()
        with self._write_lock:
            self._writer.close()
        with self._read_lock:
            self._reader.close()

    # --- reading ---

    def all(self, query: Query) -> list[Row]:
        self._after_fork()
        if self._owner == threading.get_ident():
            return self._fetch(self._writer, query)
        with self._read_lock:
            return self._fetch(self._reader, query)

    def _fetch(self, connection: SqliteDatabase, query: Query) -> list[Row]:
        with self._explained():
            return list(query.execute(connection))

    # --- writing ---

    @contextmanager
    def write(self) -> Iterator[None]:
        self._after_fork()
        if self._owner == threading.get_ident():
            with self._writer.savepoint():
                yield
            return
        with self._write_lock:
            with self._explained():
                self._writer.begin("immediate")
            self._owner = threading.get_ident()
            try:
                yield
                with self._explained():
                    self._writer.commit()
            except BaseException:
                # A full disk has already rolled back by itself; then there is nothing left to undo.
                with suppress(PeeweeException):
                    self._writer.rollback()
                raise
            finally:
                self._owner = 0

    def run(self, query: Query) -> int:
        if self._owner != threading.get_ident():
            raise RuntimeError("a change of the database needs `with database.write():` around it")
        with self._explained():
            return int(query.execute(self._writer) or 0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PeeweeException as exc:
            raise explain(getattr(exc, "orig", exc), self.path) from exc
        except sqlite3.Error as exc:
            raise explain(exc, self.path) from exc
        except (OverflowError, UnicodeEncodeError) as exc:
            raise StoreError(f"a value cannot be stored: {exc}", retryable=False) from exc
