"""Rows on their way between SQLite and Postgres: read a few at a time, written in bulk, and proved to be the same.

A proof is the sum of a hash of every row: two tables with the same rows have the same, in whatever order they are read.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from appliance.store.errors import StoreError
from appliance.store.postgres.connecting import Connection
from appliance.store.schema import MIGRATIONS

Row = tuple[Any, ...]
_AT_ONCE = 500
_SPACE = 1 << 128
_TABLE = re.compile(r"^\s*CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
_pack = msgspec.msgpack.Encoder().encode


class Proof:
    """What was seen of a table: how many rows, and the sum of their hashes."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0

    def add(self, row: Row) -> None:
        """One more row."""
        self.count += 1
        digest = hashlib.blake2b(_pack(row), digest_size=16).digest()
        self.total = (self.total + int.from_bytes(digest, "big")) % _SPACE

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, noted as they pass."""
        for row in rows:
            self.add(row)
            yield row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proof) and (self.count, self.total) == (other.count, other.total)

    __hash__ = None  # type: ignore[assignment]  # it grows


def proved(rows: Iterable[Row]) -> Proof:
    """The proof of all rows."""
    proof = Proof()
    for row in rows:
        proof.add(row)
    return proof


def tables() -> list[str]:
    """The tables of flows, people and settings, in the order in which they were made."""
    found = [match[1] for step in MIGRATIONS for text in step.statements if (match := _TABLE.match(text))]
    return list(dict.fromkeys(found))


def columns_of(file: sqlite3.Connection, table: str) -> list[str]:
    """A SQLite table's columns; none if there is no such table."""
    return [row[1] for row in file.execute(f"PRAGMA table_info({table})")]


def file_rows(file: sqlite3.Connection, table: str, columns: Sequence[str], where: str = "") -> Iterator[Row]:
    """Rows of a SQLite table."""
    return iter(file.execute(f"SELECT {_named(columns)} FROM {table} {where}"))


def server_rows(
    connection: Connection, table: str, columns: Sequence[str], where: str = "", values: Sequence[Any] = ()
) -> Iterator[Row]:
    """Rows of a Postgres table, some hundred at a time in memory. Inside a transaction."""
    with connection.cursor(f"rows_of_{table}", binary=True) as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(f"SELECT {_named(columns)} FROM {table} {where}".encode(), values)
        yield from cursor


def to_server(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows in bulk. Raises ``StoreError`` for a text that Postgres cannot keep."""
    sql = f"COPY {table} ({_named(columns)}) FROM STDIN".encode()
    with connection.cursor() as cursor, cursor.copy(sql) as copy:
        for row in rows:
            for value in row:
                if isinstance(value, str) and "\x00" in value:
                    raise StoreError(
                        f"a row of {table} cannot be moved: Postgres keeps no text with a NUL character in it, as in "
                        f"{value[:60]!r}; change that value first",
                        retryable=False,
                    )
            copy.write_row(row)


def to_file(file: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows in bulk."""
    marks = ", ".join("?" * len(columns))
    file.executemany(f"INSERT INTO {table} ({_named(columns)}) VALUES ({marks})", rows)


def counted(rows: Iterable[Row], tell: Callable[[int], None]) -> Iterator[Row]:
    """The rows, telling now and then how many have passed."""
    since = 0
    for row in rows:
        yield row
        since += 1
        if since >= _AT_ONCE:
            tell(since)
            since = 0
    tell(since)


def _named(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)
