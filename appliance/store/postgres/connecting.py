"""Connections to the database that ``FLOWORK_DATABASE_URL`` names, and what its errors mean to a person.

No text made here ever holds the URL itself: there may be a password in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from appliance.store.database import BUSY_TIMEOUT
from appliance.store.errors import (
    StoreAway,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
)

try:
    import psycopg
    from psycopg import conninfo
except ImportError as exc:
    raise StoreError(
        f"FLOWORK_DATABASE_URL needs the Python package psycopg, which cannot be used here ({exc}); "
        "install it with: pip install 'flowork[postgres]'",
        retryable=False,
    ) from None

#: Everything lies in a schema of its own, so that other programs' tables may be beside it.
SCHEMA = "flowork"
#: The oldest server that may be used: one that prunes partitions while a query runs and drops databases by force.
OLDEST = 130000
#: Seconds until a server that does not answer is given up.
PATIENCE = 5.0
#: How the sessions of open stores are named in ``pg_stat_activity``; one that is still being opened is named otherwise.
IN_USE, OPENING = "flowork", "flowork opening"

# Of every error in a pipeline it says a second time that it was ignored, which it was not.
logging.getLogger("psycopg").setLevel(logging.ERROR)

_EXAMPLE = "write postgresql://user:password@host:5432/database"
# A cable that was pulled is noticed within 15 seconds: by probes while idle, by TCP_USER_TIMEOUT while busy.
_LINK: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}

Connection = psycopg.Connection[tuple[Any, ...]]


class Address(Struct, frozen=True):
    """Where a database is, without who gets in."""

    host: str
    port: str
    name: str

    def __str__(self) -> str:
        return f"the database {self.name!r} at {self.host}:{self.port}"


def address_of(url: str) -> Address:
    """What of a URL may be shown. Raises ``StoreError`` for one that is none."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreError(f"FLOWORK_DATABASE_URL cannot be read; {_EXAMPLE}", retryable=False) from None
    name = parts.get("dbname") or parts.get("user") or ""
    if not name:
        raise StoreError(f"FLOWORK_DATABASE_URL names no database; {_EXAMPLE}", retryable=False)
    return Address(str(parts.get("host") or "this machine"), str(parts.get("port") or "5432"), str(name))


def connect(
    url: str, *, name: str = IN_USE, sync: bool = True, patience: float = PATIENCE, busy: float = BUSY_TIMEOUT
) -> Connection:
    """A connection in autocommit mode. Raises ``psycopg.Error``.

    ``sync`` False: a commit does not wait for the server's disk (durability ``process``). ``patience``: seconds for
    connecting, ``busy``: for the lock of another.
    """
    connection = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=max(2, round(patience)),
        application_name=name,
        client_encoding="utf8",
        **_LINK,
    )
    try:
        connection.execute(
            f"SET search_path = {SCHEMA}; SET synchronous_commit = {'on' if sync else 'off'}; "
            f"SET lock_timeout = {round(busy * 1000)}; SET idle_in_transaction_session_timeout = '60s'"
        )
    except BaseException:
        connection.close()
        raise
    return connection


def is_lost(connection: Connection) -> bool:
    """True for a connection that cannot be used any more."""
    return connection.closed or connection.broken


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what psycopg raises inside the block into a :class:`StoreError`."""
    try:
        yield
    except psycopg.Error as exc:
        raise explain(exc, url) from exc


def explain(error: BaseException, url: str) -> StoreError:
    """The :class:`StoreError` for an error of psycopg (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    where, state = address_of(url), getattr(error, "sqlstate", None) or ""
    said = _first_line(error)
    # A server that refuses at the door gives no SQLSTATE, only libpq's words.
    if state in ("28P01", "28000") or "authentication failed" in said or "no password supplied" in said:
        return StoreError(f"{where} refuses this user or password: check FLOWORK_DATABASE_URL", retryable=False)
    if state == "3D000" or ("database" in said and said.endswith("does not exist")):
        return StoreError(f"{where} does not exist: make it with `createdb {where.name}`", retryable=False)
    lost = isinstance(error, psycopg.InterfaceError | psycopg.OperationalError) and not state
    if lost or state.startswith(("08", "57P")):
        return StoreAway(f"{where} cannot be reached: {said}")
    if state == "53300":
        return StoreAway(f"{where} takes no more connections: raise max_connections there")
    if state in ("53100", "53200"):
        return StoreFull(f"{where} has no room left: {said}")
    if state in ("55P03", "57014", "40001", "40P01"):
        return StoreBusy(f"{where} is busy with another write; try again in a moment")
    if state in ("25006", "42501"):
        return StoreReadOnly(f"{where} may not be written to by this user: {said}")
    if state in ("XX001", "XX002"):
        return StoreCorrupt(f"{where} is damaged ({said}): its own tools must mend it")
    if state[:2] in ("22", "42") or isinstance(error, psycopg.DataError | psycopg.ProgrammingError):
        return StoreError(f"{where}: a value cannot be stored: {said}", retryable=False)
    return StoreError(f"{where}: {said}")


def _first_line(error: BaseException) -> str:
    """What the server said, without the context that it adds; libpq repeats itself for each address it tried."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.rpartition(" failed: ")[2] if text.startswith("connection ") else text
