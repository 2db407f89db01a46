"""Gets out of a damaged shard what the engine still needs: runs under way, keys of events, durable values.

Ended runs stay in the damaged file. Everything is read row by row, so that a broken page costs what is on it only.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.store import shards
from appliance.store.runids import SPAN_BITS

logger = logging.getLogger(__name__)

_OF_RUN = ("run WHERE id = ?", "chunk WHERE run = ?", "blob_use WHERE run = ?")
_WHOLE = ("event_key", "state_op")


def salvage(damaged: Path, fresh: sqlite3.Connection) -> int:
    """Copy into the new shard; returns how many runs under way were saved. Raises ``sqlite3.Error`` for the new one."""
    try:
        old = shards.open_reader(damaged)
    except sqlite3.Error:
        return 0
    saved = 0
    with contextlib.closing(old):
        fresh.execute("BEGIN IMMEDIATE")
        try:
            for number in _under_way(old):
                saved += _copy_run(old, fresh, number)
            for table in _WHOLE:
                for row in _readable(old, f"SELECT * FROM {table}"):
                    _put(fresh, table, row)
            fresh.execute(f"INSERT OR IGNORE INTO flow_span SELECT DISTINCT flow, id >> {SPAN_BITS} FROM run")
            fresh.execute("COMMIT")
        except BaseException:
            if fresh.in_transaction:
                fresh.execute("ROLLBACK")
            raise
    if saved:
        logger.warning("%d runs under way were saved from %s", saved, damaged.name)
    return saved


def _under_way(old: sqlite3.Connection) -> list[int]:
    """By the index and by the table: either may be the damaged one."""
    listed = {row[0] for row in _readable(old, "SELECT id FROM run WHERE state < 10")}
    scanned = {row[0] for row in _readable(old, "SELECT id, state FROM run NOT INDEXED") if row[1] < 10}
    return sorted(listed | scanned)


def _copy_run(old: sqlite3.Connection, fresh: sqlite3.Connection, number: int) -> int:
    """All of one run or nothing of it: half its steps would be done again."""
    found: list[tuple[str, list[Any]]] = []
    try:
        for source in _OF_RUN:
            rows = old.execute(f"SELECT * FROM {source}", (number,)).fetchall()
            found.append((source.split(" ", 1)[0], rows))
    except sqlite3.Error as exc:
        logger.error("run %d is lost: %s", number, exc)
        return 0
    for table, rows in found:
        for row in rows:
            _put(fresh, table, row)
    return len(found[0][1])


def _put(fresh: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> None:
    fresh.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def _readable(old: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """Rows up to the first that cannot be read."""
    try:
        yield from old.execute(sql)
    except sqlite3.Error as exc:
        logger.warning("a part of the damaged shard cannot be read: %s", exc)
