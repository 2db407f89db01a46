"""Runs written straight into shards, and ways to damage a shard's file."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.store import shards
from appliance.store.journal import Batch, Journal, RunRow

DAY = 86_400.0
#: Noon of a day in UTC.
NOON = 1_800_014_400.0


def row(number: int, state: RunState = RunState.SUCCEEDED, flow: int = 1, **fields: Any) -> RunRow:
    """A run's row."""
    event = trace.pack(["", {"id": ""}, None, None])
    at = time.time_ns() // 1000
    plain = RunRow(number, flow, 1, "", int(state), at, at, "t1", event, None, None, None, 0, b"")
    return plain._replace(**fields)


def put(
    journal: Journal, when: float, count: int = 1, state: RunState = RunState.SUCCEEDED, **fields: Any
) -> list[int]:
    """Commit runs accepted at a moment; returns their ids."""
    batch = Batch()
    batch.runs = [row(journal.ids.next(when), state, **fields) for _ in range(count)]
    journal.commit(batch)
    return [entry.id for entry in batch.runs]


def garbage_header(path: Path) -> None:
    """The file begins with something else."""
    with path.open("r+b") as file:
        file.write(b"not a database at all" * 5)


def wreck_table(path: Path, table: str) -> None:
    """Overwrite the root page of a table or index."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * shards.PAGE_SIZE)
        file.write(b"\xff" * shards.PAGE_SIZE)


def truncate(path: Path, share: float = 0.5) -> None:
    """Cut the file's end off."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * share) // shards.PAGE_SIZE * shards.PAGE_SIZE)
