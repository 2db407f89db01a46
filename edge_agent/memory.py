"""Commands that were carried out: asked again under the same key, the agent answers as it did and does nothing twice.

A command is noted before it begins. Found begun and not ended (the machine went down in the middle), nobody knows
whether it was carried out, and it is not done again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

#: Commands that are remembered, and for how many seconds.
KEPT = 10_000
KEPT_FOR = 7 * 86400.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS command (key TEXT PRIMARY KEY, at REAL NOT NULL, outcome BLOB) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS command_at ON command (at);
"""


class Outcome(Struct, array_like=True):
    """What came of a command: ``error`` is empty if it was carried out."""

    value: Any = None
    error: str = ""
    retryable: bool = True


_decode = msgspec.msgpack.Decoder(Outcome).decode
_encode = msgspec.msgpack.Encoder(enc_hook=str).encode

CUT_OFF = Outcome(
    None, "the agent was stopped in the middle of this command; nobody knows whether it was carried out", False
)


class CommandMemory:
    """Safe from any thread. The file is made when the first command comes."""

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self._path = path
        self._wall = wall
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def begin(self, key: str) -> Outcome | None:
        """Note that a command begins; what came of it if it had begun before. Raises ``sqlite3.Error``."""
        with self._lock:
            db = self._opened()
            row = db.execute("SELECT outcome FROM command WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return CUT_OFF if row[0] is None else _decode(row[0])
            with db:
                db.execute("INSERT INTO command VALUES (?, ?, NULL)", (key, self._wall()))
            return None

    def end(self, key: str, outcome: Outcome) -> None:
        """What came of it. One that failed and may be tried again is forgotten. Raises ``sqlite3.Error``."""
        with self._lock:
            db = self._opened()
            with db:
                if outcome.error and outcome.retryable:
                    db.execute("DELETE FROM command WHERE key = ?", (key,))
                else:
                    db.execute("UPDATE command SET outcome = ? WHERE key = ?", (_encode(outcome), key))
                db.execute("DELETE FROM command WHERE at < ?", (self._wall() - KEPT_FOR,))
                db.execute(
                    "DELETE FROM command WHERE at < (SELECT at FROM command ORDER BY at DESC LIMIT 1 OFFSET ?)", (KEPT,)
                )

    def close(self) -> None:
        """Twice is fine."""
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                db.close()

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            db = sqlite3.connect(self._path, check_same_thread=False)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
            self._db = db
        return self._db
