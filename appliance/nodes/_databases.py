"""The connections behind the database node: SQLite, PostgreSQL and MySQL, each one statement and away again.

Every way takes the same job, gives the same answer, and can be ended from another thread. The drivers of the
servers are optional and loaded when they are used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from appliance.contracts import ConfigError, Context, NodeError

#: Driver and extra by kind.
DRIVERS = {"postgresql": ("psycopg", "postgres"), "mysql": ("pymysql", "mysql")}
#: Seconds: to connect, to wait for another writer of an SQLite file, between attempts to cancel.
CONNECT_TIMEOUT = 10
BUSY_TIMEOUT = 5.0
_CANCEL_EVERY = 0.2
#: After so many polite attempts the connection is cut.
_CANCEL_ATTEMPTS = 10


class Address(NamedTuple):
    """A database URL in pieces; ``kind`` is ``sqlite``, ``postgresql`` or ``mysql``."""

    kind: str
    host: str
    port: int | None
    user: str | None
    password: str | None
    name: str
    options: dict[str, str]


class Job(NamedTuple):
    """A statement with its values in the driver's own form; one row more than ``limit`` is fetched."""

    sql: str
    params: Any
    many: list[Any] | None
    reads: bool
    limit: int


class Answer(NamedTuple):
    """What the database said, in its own types."""

    columns: list[str]
    rows: Sequence[Sequence[Any]]
    rowcount: int
    lastrowid: int | None = None


# --- ending it from outside ---------------------------------------------------------------------------


class Cancel:
    """Ends a query under way: asks the server again and again, in the end cuts the connection."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ask: Callable[[], None] | None = None
        self._line: socket.socket | None = None

    def set(self) -> None:
        """From any thread; does not wait."""
        with self._lock:
            self.wanted.set()
            if not self._finished.is_set():
                self._thread = threading.Thread(target=self._insist, name="database-cancel", daemon=True)
                self._thread.start()

    def watch(self, descriptor: int, ask: Callable[[], None] | None = None) -> None:
        """Name the connection's socket (a copy is kept) and, as soon as it is possible, how to ask."""
        if self._line is None:
            self._line = socket.socket(fileno=os.dup(descriptor))
        self._ask = ask
        self.check()

    def check(self) -> None:
        if self.wanted.is_set():
            raise NodeError("the query was cancelled")

    def finish(self) -> None:
        """The work is over, one way or another."""
        with self._lock:
            self._finished.set()
        if self._thread is not None:
            self._thread.join()
        if self._line is not None:
            self._line.close()

    def _insist(self) -> None:
        # Again and again, since a server ignores what comes just before the query.
        for _ in range(_CANCEL_ATTEMPTS):
            if self._ask is None:
                break
            try:
                self._ask()
            except Exception:
                break
            if self._finished.wait(_CANCEL_EVERY):
                return
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)


def _fault(cancel: Cancel, message: str, code: Any, *, retryable: bool) -> NodeError:
    cancel.check()
    return NodeError(" ".join(message.split()), retryable=retryable, detail={"code": code})


# --- SQLite -------------------------------------------------------------------------------------------


_SQLITE_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
}


def _sqlite(ctx: Context, address: Address, job: Job, cancel: Cancel) -> Answer:
    try:
        with contextlib.closing(_sqlite_open(ctx, address.name, job)) as connection:
            connection.set_progress_handler(cancel.wanted.is_set, 20_000)
            connection.text_factory = lambda data: data.decode(errors="replace")
            if job.reads:
                connection.execute("PRAGMA query_only = ON")
            connection.set_authorizer(_sqlite_authorize)
            cancel.check()
            if job.many is not None:
                return _sqlite_many(connection, job)
            cursor = connection.execute(job.sql, job.params)
            rows = cursor.fetchmany(job.limit + 1)
            columns = [column[0] for column in cursor.description or ()]
            return Answer(columns, rows, cursor.rowcount, cursor.lastrowid or None)
    except (sqlite3.Error, sqlite3.Warning) as exc:
        passing = getattr(exc, "sqlite_errorcode", 0) & 0xFF in _SQLITE_PASSING
        raise _fault(cancel, str(exc), getattr(exc, "sqlite_errorname", None), retryable=passing) from None


def _sqlite_open(ctx: Context, name: str, job: Job) -> sqlite3.Connection:
    if name in ("", ":memory:"):
        return sqlite3.connect(":memory:", isolation_level=None)
    path = ctx.files.resolve(name, write=not job.reads)
    if not job.reads:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise NodeError(f"there is no database file {name!r}", retryable=False)
    uri = f"file:{quote(str(path))}?mode={'rw' if job.reads else 'rwc'}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)


def _sqlite_authorize(action: int, first: str | None, *rest: str | None) -> int:
    """No other file: ATTACH and VACUUM INTO would open any (a plain VACUUM attaches a nameless one)."""
    foreign = action == sqlite3.SQLITE_ATTACH and first not in ("", ":memory:")
    return sqlite3.SQLITE_DENY if foreign else sqlite3.SQLITE_OK


def _sqlite_many(connection: sqlite3.Connection, job: Job) -> Answer:
    connection.execute("BEGIN IMMEDIATE")
    try:
        rowcount = connection.executemany(job.sql, job.many or ()).rowcount
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return Answer([], [], rowcount)


# --- PostgreSQL and MySQL -------------------------------------------------------------------------------


def missing(module: str, extra: str) -> str:
    return f"needs the library {module}: install it with pip install 'flowork[{extra}]'"


def _driver(kind: str) -> Any:
    module, extra = DRIVERS[kind]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"url: {missing(module, extra)}") from None


#: SQLSTATE classes: connection lost, rolled back (deadlock), out of resources, operator; and lock not available.
_POSTGRES_PASSING = ("08", "40", "53", "57", "55P03")


def _postgres(ctx: Context, address: Address, job: Job, cancel: Cancel) -> Answer:
    psycopg = _driver("postgresql")
    arguments = {
        "host": address.host or None,
        "port": address.port,
        "user": address.user,
        "password": address.password,
        "dbname": address.name or None,
        "connect_timeout": CONNECT_TIMEOUT,
    }
    try:
        with psycopg.connect(
            **arguments | address.options, autocommit=not job.reads and job.many is None
        ) as connection:
            cancel.watch(connection.fileno(), lambda: connection.cancel_safe(timeout=5))
            connection.read_only = job.reads or None
            with connection.cursor() as cursor:
                return _postgres_run(cursor, job)
    except psycopg.Error as exc:
        state = exc.sqlstate or ""
        passing = isinstance(exc, psycopg.OperationalError) and (not state or state.startswith(_POSTGRES_PASSING))
        raise _fault(cancel, exc.diag.message_primary or str(exc), state or None, retryable=passing) from None


def _postgres_run(cursor: Any, job: Job) -> Answer:
    if job.many is not None:
        cursor.executemany(job.sql, job.many)
        return Answer([], [], cursor.rowcount)
    columns: list[str] = []
    rows: list[Any] = []
    if job.reads:
        # Row by row: the driver would otherwise hold the whole table in memory.
        with contextlib.closing(cursor.stream(job.sql, job.params)) as stream:
            for row in stream:
                columns = columns or [column.name for column in cursor.description]
                rows.append(row)
                if len(rows) > job.limit:
                    break
        return Answer(columns, rows, len(rows))
    cursor.execute(job.sql, job.params)
    if cursor.description:
        columns = [column.name for column in cursor.description]
        rows = cursor.fetchmany(job.limit + 1)
    return Answer(columns, rows, cursor.rowcount)


#: Too many connections, lock wait, deadlock, shutting down; the client's own: cannot connect, gone, lost.
_MYSQL_PASSING = {1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013}


def _mysql(ctx: Context, address: Address, job: Job, cancel: Cancel) -> Answer:
    pymysql = _driver("mysql")
    host, port = address.host or "localhost", address.port or 3306
    arguments = {
        "host": host,
        "port": port,
        "user": address.user or "",
        "password": address.password or "",
        "database": address.name or None,
        "autocommit": job.many is None,
    } | address.options
    try:
        # A socket of our own, so that the connection can be cut from another thread.
        with socket.create_connection((host, port), CONNECT_TIMEOUT) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            cancel.watch(line.fileno())
            connection = pymysql.connect(**arguments, defer_connect=True)
            connection.connect(line)
            try:
                cancel.watch(-1, lambda: _mysql_kill(pymysql, arguments, connection.thread_id()))
                return _mysql_run(connection, job)
            finally:
                with contextlib.suppress(pymysql.Error):
                    connection.close()
    except pymysql.Error as exc:
        code, text = (exc.args[0], exc.args[-1]) if exc.args else (None, type(exc).__name__)
        raise _fault(cancel, str(text), code, retryable=code in _MYSQL_PASSING) from None
    except OSError as exc:
        raise _fault(cancel, f"{host}:{port} cannot be reached: {exc.strerror or exc}", None, retryable=True) from None


def _mysql_run(connection: Any, job: Job) -> Answer:
    cursor = connection.cursor()
    if job.many is not None:
        cursor.executemany(job.sql, job.many)
        connection.commit()
        return Answer([], [], cursor.rowcount)
    if job.reads:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute(f"SET SESSION sql_select_limit = {job.limit + 1:d}")
    cursor.execute(job.sql, job.params)
    columns = [column[0] for column in cursor.description or ()]
    rows = cursor.fetchmany(job.limit + 1) if columns else []
    return Answer(columns, rows, cursor.rowcount, cursor.lastrowid or None)


def _mysql_kill(pymysql: Any, arguments: Mapping[str, Any], thread: int) -> None:
    with contextlib.closing(pymysql.connect(**arguments, connect_timeout=5, read_timeout=5)) as other:
        other.cursor().execute(f"KILL QUERY {thread:d}")


WAYS: dict[str, Callable[[Context, Address, Job, Cancel], Answer]] = {
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "mysql": _mysql,
}
