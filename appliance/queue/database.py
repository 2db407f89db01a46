"""The file ``queue.db``: one SQLite connection a process, short transactions, errors in words for people.

A file that turns out to be damaged is moved aside and made anew: the journal holds the truth, and the
kernel's start and its watchdog find there what the lost wake-ups were about.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from appliance.queue.errors import QueueError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Row = tuple[Any, ...]

_VERSION = 1
_SCHEMA = (
    """create table task (
        id integer primary key, queue text not null, data blob not null, priority real not null,
        attempts integer not null default 0, once blob, owner text, token integer, lease_until real)""",
    "create index task_waiting on task (queue, priority desc, id) where owner is null",
    "create index task_leased on task (queue) where owner is not null",
    "create index task_once on task (queue, once) where once is not null",
    """create table dead (
        id integer primary key, queue text not null, data blob not null, priority real not null,
        attempts integer not null, reason text not null, at real not null)""",
    """create table schedule (
        id integer primary key, queue text not null, data blob not null, due real not null)""",
    "create index schedule_due on schedule (queue, due, id)",
    """create table kv (
        queue text not null, key text not null, value blob not null, expires real,
        primary key (queue, key)) without rowid""",
    "create index kv_expires on kv (expires) where expires is not null",
    """create table counter (
        queue text not null, key text not null, value integer not null,
        primary key (queue, key)) without rowid""",
    f"pragma user_version = {_VERSION}",
)
#: A commit writes whole pages to the card: with SQLite's 4 KiB a task costs 29 kB instead of 7.5.
_PAGE = 1024
#: Bytes of the write-ahead log at which it is written back, and to which it is cut afterwards.
_LOG = 4 * 1024 * 1024
#: Up to this size (bytes) the whole file is checked when it is opened; it takes milliseconds.
_CHECKED_SIZE = 16 * 1024 * 1024
_KEPT_ASIDE = 3

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_TROUBLE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "it is read-only; check the owner and the mount of the data folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the owner and the mount of the data folder",
    sqlite3.SQLITE_PERM: "access is denied; check the owner of the data folder",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_IOERR: "the disk reports an error or is full",
}

#: Connections from before a fork. Closing one in the child could drop the parent's locks on the file.
_of_the_parent: list[sqlite3.Connection] = []


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _code(exc: sqlite3.Error) -> int:
    """The primary result code, 0 for an error that does not come from SQLite itself."""
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF


class Database:
    """``synchronous`` is NORMAL (a power cut may lose the last moments) or FULL. ``timeout``: seconds to
    wait for another process's transaction. Opened by its first use; all methods are safe from any thread.
    """

    def __init__(self, path: Path, synchronous: str = "NORMAL", timeout: float = 5.0) -> None:
        if synchronous not in ("NORMAL", "FULL"):
            raise ValueError(f"synchronous must be NORMAL or FULL, not {synchronous!r}")
        self.path = path
        self._synchronous = synchronous
        self._timeout = timeout
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    # --- what the storage calls; each raises QueueError when the file cannot be used ---------------

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """The rows of a select."""
        return self._guarded(lambda connection: connection.execute(sql, values).fetchall())

    def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one statement as a transaction of its own; the number of rows it changed."""
        return self._guarded(lambda connection: connection.execute(sql, values).rowcount)

    def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in one write transaction. It may run twice, when the file had to be made anew."""

        def inside(connection: sqlite3.Connection) -> T:
            connection.execute("begin immediate")
            try:
                result = work(connection)
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
            return result

        return self._guarded(inside)

    def close(self) -> None:
        """Close; the next use opens again. Closing twice is fine."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    # --- how ------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._pid != os.getpid():
            self._forget_parent()
        with self._lock:
            try:
                try:
                    return work(self._current())
                except sqlite3.DatabaseError as exc:
                    if _code(exc) not in _DAMAGE:
                        raise
                    self._replace(str(exc))
                return work(self._current())
            except sqlite3.Error as exc:
                trouble = _TROUBLE.get(_code(exc))
                if trouble is None:
                    raise
                raise QueueError(f"{self.path} cannot be used: {trouble} ({exc})") from exc
            except OSError as exc:
                raise QueueError(f"{self.path} cannot be used: {exc.strerror or exc}") from exc

    def _forget_parent(self) -> None:
        self._lock = threading.RLock()  # The old one may be held by a thread that does not exist here.
        self._pid = os.getpid()
        if self._connection is not None:
            _of_the_parent.append(self._connection)
            self._connection = None

    def _current(self) -> sqlite3.Connection:
        """The open connection; a new one if another process has replaced the file or it was deleted."""
        if self._connection is not None and self._inode_on_disk() != self._inode:
            self.close()
        if self._connection is None:
            with self._exclusive():
                self._connection = self._open()
        return self._connection

    def _inode_on_disk(self) -> int:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time makes, checks or replaces the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
        except sqlite3.DatabaseError as exc:
            if _code(exc) not in _DAMAGE:
                raise
            self._set_aside(str(exc))
            connection = self._connect()
        self._inode = self._inode_on_disk()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        try:
            self._check(connection)
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {self._synchronous}")
            connection.execute(f"pragma wal_autocheckpoint = {_LOG // _PAGE}")
            connection.execute(f"pragma journal_size_limit = {_LOG}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Make the tables in a new file. Raises ``_Damaged`` for a file that is damaged or not ours."""
        (version,) = connection.execute("pragma user_version").fetchone()
        (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
        if version == 0 and tables == 0:
            connection.execute(f"pragma page_size = {_PAGE}")
            connection.execute("begin immediate")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("commit")
        elif version != _VERSION:
            raise _Damaged(f"it was made by another program or version (user_version {version})")
        elif self.path.stat().st_size <= _CHECKED_SIZE:
            (verdict,) = connection.execute("pragma quick_check(1)").fetchone()
            if verdict != "ok":
                raise _Damaged(verdict)

    def _replace(self, reason: str) -> None:
        suspect = self._inode
        self.close()
        with self._exclusive():
            # Another process may have met the same damage first: its new file must stay.
            if self._inode_on_disk() == suspect:
                self._set_aside(reason)

    def _set_aside(self, reason: str) -> None:
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        # The log goes first: left beside a new database it would be played back into it.
        for suffix in ("-wal", "-shm", ""):
            source = Path(f"{self.path}{suffix}")
            if source.exists():
                source.rename(aside + suffix)
        logger.warning(
            "%s is damaged (%s): moved aside to %s and made anew; what it held is found again through the journal",
            self.path,
            reason,
            aside,
        )
        self._drop_old_ones()

    def _drop_old_ones(self) -> None:
        kept = sorted(self.path.parent.glob(f"{self.path.name}.damaged-*[0-9]"))[-_KEPT_ASIDE:]
        for file in self.path.parent.glob(f"{self.path.name}.damaged-*"):
            if not any(file.name.startswith(k.name) for k in kept):
                file.unlink(missing_ok=True)
