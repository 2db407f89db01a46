"""What was last told of each file, on disk: so that a restart knows what changed meanwhile, and memory stays small.

A row is written once its change was told. What was told shortly before a crash may be told once more, none is lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from drivers.support.trees import Entry

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (name BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, inode INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS inodes ON files (inode);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


class Snapshot:
    """For one thread, that which opens it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """A damaged file is begun afresh: then what changed while nobody watched cannot be known."""
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            self._db = self._connect()

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.commit()
            db.close()

    def commit(self) -> None:
        self._open.commit()

    def roll_back(self) -> None:
        """To the last commit."""
        self._open.rollback()

    def fact(self, name: str) -> str:
        row = self._open.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def note(self, name: str, value: str) -> None:
        self._open.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def count(self) -> int:
        found: int = self._open.execute("SELECT count(*) FROM files").fetchone()[0]
        return found

    def get(self, name: bytes) -> Entry | None:
        row = self._open.execute("SELECT size, mtime, inode FROM files WHERE name = ?", (name,)).fetchone()
        return Entry(*row) if row else None

    def put(self, name: bytes, entry: Entry) -> None:
        row = (name, entry.size, entry.mtime, entry.inode)
        self._open.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)

    def remove(self, name: bytes) -> None:
        self._open.execute("DELETE FROM files WHERE name = ?", (name,))

    def same(self, entry: Entry) -> list[bytes]:
        """Names under which this very file was known."""
        rows = self._open.execute(
            "SELECT name FROM files WHERE inode = ? AND size = ? AND mtime = ? LIMIT 8",
            (entry.inode, entry.size, entry.mtime),
        )
        return [row[0] for row in rows]

    def fill(self, files: Iterable[tuple[bytes, Entry]]) -> None:
        """Take all as told."""
        for name, entry in files:
            self.put(name, entry)

    def differences(self, files: Iterable[tuple[bytes, Entry]]) -> Iterator[bytes]:
        """The names of which something is to be told: new, changed, gone."""
        db = self._open
        db.execute("CREATE TEMP TABLE IF NOT EXISTS seen (name BLOB PRIMARY KEY) WITHOUT ROWID")
        db.execute("DELETE FROM seen")
        for name, entry in files:
            db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,))
            if self.get(name) != entry:
                yield name
        for (name,) in db.execute("SELECT name FROM files EXCEPT SELECT name FROM seen"):
            yield name

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=10)
        try:
            # A power cut may take back the last commits: then something is told twice, as above.
            db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=FILE;" + _SCHEMA)
            db.execute("SELECT count(*) FROM facts").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db
