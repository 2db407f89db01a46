"""The outbox on disk: a SQLite file with the events that are not acknowledged, in the order of their numbers.

Used by the outbox's writer only, and while it is opened. A file that is damaged is set aside, and a new one begins.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edge_agent.lanes import OVERHEAD, Item

logger = logging.getLogger(__name__)

#: A wall clock before this (in 2023) has not been set since the machine was switched on.
CLOCK_SET = 1_700_000_000.0
#: What SQLite says of a file that cannot be mended; a full or busy disk is something else.
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    seq INTEGER PRIMARY KEY, watch TEXT NOT NULL, priority INTEGER NOT NULL, at REAL NOT NULL, up REAL NOT NULL,
    boot TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS event_watch ON event (watch, seq);
CREATE INDEX IF NOT EXISTS event_priority ON event (priority, seq);
CREATE TABLE IF NOT EXISTS lost (watch TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""

#: Number, watch and bytes of an event.
Place = tuple[int, str, int]


class OutboxFile:
    """Every method raises ``sqlite3.Error``. ``name`` is the file's for ever, ``boot`` this boot of the machine."""

    def __init__(self, path: Path, boot: str) -> None:
        self.name = ""
        #: The highest number that may be given before more are reserved.
        self.reserved = 0
        self._path = path
        self._boot = boot
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open it, or begin a new one."""
        try:
            self._load()
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorname not in DAMAGED:
                raise
            aside = self._path.with_name(f"{self._path.name}.damaged")
            logger.error("the outbox cannot be read (%s): it is now %s, and a new one begins", exc, aside)
            self.close()
            self._path.replace(aside)
            for rest in ("-wal", "-shm"):
                self._path.with_name(self._path.name + rest).unlink(missing_ok=True)
            self._load()

    def _load(self) -> None:
        self._db = db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-512")
        db.execute("PRAGMA journal_size_limit=1000000")
        db.executescript(_SCHEMA)
        meta = dict(db.execute("SELECT name, value FROM meta"))
        self.name = meta.get("name") or os.urandom(6).hex()
        self.reserved = int(meta.get("reserved", 0))
        self.totals()  # a table that is damaged is found now
        self.lost()

    def close(self) -> None:
        """Twice is fine."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    # --- reading --------------------------------------------------------------------------------

    def totals(self) -> tuple[int, int]:
        """How many events there are, and their bytes."""
        query = f"SELECT count(*), ifnull(sum(length(body) + {OVERHEAD}), 0) FROM event"
        count, size = self._open.execute(query).fetchone()
        return count, size

    def lost(self) -> dict[str, int]:
        """How many events of each watch were left out and not told of."""
        return dict(self._open.execute("SELECT watch, count FROM lost"))

    def watches(self) -> list[str]:
        """Those with events."""
        return [name for (name,) in self._open.execute("SELECT DISTINCT watch FROM event")]

    def read(self, watch: str, behind: int, below: int, most: int) -> list[Item]:
        """The next events of a watch, by their numbers."""
        rows = self._open.execute(
            "SELECT seq, priority, at, up, boot, body FROM event WHERE watch = ? AND seq > ? AND seq < ? "
            "ORDER BY seq LIMIT ?",
            (watch, behind, below, most),
        )
        return [
            Item(seq, watch, priority, at, up if boot == self._boot else 0.0, body, written=True)
            for seq, priority, at, up, boot, body in rows
        ]

    def too_old(self, wall: float, up: float) -> list[Place]:
        """What was seen before: by the clock that nobody sets, where it can be; one that was not set says nothing."""
        query = (
            "SELECT seq, watch, length(body) FROM event WHERE "
            "(boot = :boot AND up < :up) OR (boot <> :boot AND at < :at AND at > :set)"
        )
        return self._open.execute(query, {"boot": self._boot, "up": up, "at": wall, "set": CLOCK_SET}).fetchall()

    def least(self, most: int) -> list[Place]:
        """What goes first: the lowest priority, and of that the oldest."""
        query = "SELECT seq, watch, length(body) FROM event ORDER BY priority, seq LIMIT ?"
        return self._open.execute(query, (most,)).fetchall()

    # --- writing --------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, with one sync."""
        self._open.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._open.execute("ROLLBACK")
            raise
        self._open.execute("COMMIT")

    def add(self, items: Iterable[Item]) -> None:
        """Keep events."""
        rows = [(i.seq, i.watch, i.priority, i.at, i.up, self._boot, i.body) for i in items]
        self._open.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def forget(self, upto: Mapping[str, int]) -> None:
        """Of each watch, all up to a number."""
        self._open.executemany("DELETE FROM event WHERE watch = ? AND seq <= ?", upto.items())

    def discard(self, watches: Iterable[str]) -> None:
        """All of these watches."""
        self._open.executemany("DELETE FROM event WHERE watch = ?", [(name,) for name in watches])

    def drop(self, places: Iterable[Place]) -> None:
        """These events."""
        self._open.executemany("DELETE FROM event WHERE seq = ?", [(seq,) for seq, _, _ in places])

    def keep_lost(self, lost: Mapping[str, int]) -> None:
        """How many were left out, from now on."""
        self._open.execute("DELETE FROM lost")
        self._open.executemany("INSERT INTO lost VALUES (?, ?)", lost.items())

    def reserve(self, upto: int) -> None:
        """Numbers up to this may be given."""
        rows = [("name", self.name), ("reserved", str(upto))]
        self._open.executemany(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", rows
        )
        self.reserved = upto

    def shrink(self) -> None:
        """Give the room of what is gone back."""
        self._open.execute("PRAGMA incremental_vacuum")
