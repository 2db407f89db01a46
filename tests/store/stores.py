"""What the tests of ``flowork.db`` share: a clock, flow bodies, and child processes that use a store."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.store.database import BUSY_TIMEOUT, Database, FileDatabase
from appliance.store.opening import DATABASE
from appliance.store.places import URL, database_url

ROOT = Path(__file__).parent.parent.parent
DAY = "2027-01-15.db"


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time


def here() -> dict[str, str]:
    """The environment of a store beside the test's own: where it is, and no settings of this machine."""
    url = database_url()
    return {URL: url} if url else {}


def open_database(data: Path, busy: float = BUSY_TIMEOUT) -> Database:
    """The test's database without the repositories. ``busy``: seconds that a write waits for the lock of another."""
    url = database_url()
    if not url:
        return FileDatabase(data / DATABASE, busy)
    from appliance.store.postgres.database import PostgresDatabase

    return PostgresDatabase(url, busy)


def body(name: str = "Greenhouse guard", **extra: Any) -> dict[str, Any]:
    """A small flow."""
    return {"name": name, "nodes": [{"id": "a", "type": "log", "config": {}}], "edges": [], **extra}


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Another process of ours that runs ``code`` with ``sys.argv[1:]``; talk to it over its pipes."""
    options.setdefault("env", {**os.environ, "PYTHONPATH": str(ROOT)})
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def write_shard(path: Path, rows: int = 100) -> None:
    """Something like a run shard."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA page_size=1024")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS run (id INTEGER PRIMARY KEY, x TEXT)")
        connection.executemany("INSERT INTO run (x) VALUES (?)", [("y" * 500,)] * rows)
