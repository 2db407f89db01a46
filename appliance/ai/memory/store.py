"""Episodes on disk: ``<data>/memory.db``, one SQLite file with full text (FTS5) and vectors beside each text.

Only the kernel opens it. Everything here blocks on the disk; call it from a thread that may.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError, Episode, NodeError

FILE = "memory.db"
VERSION = 1
#: Characters of one text, bytes of its data.
LONGEST_TEXT = 20_000
MOST_DATA = 100_000
#: Words of a query that are looked for, and rows that these may lead to: common words are left out past it.
MOST_WORDS = 16
MOST_ROWS = 4_000
#: A query's parameters in one statement (SQLite's own bound is 32,766).
_CHUNK = 500

_SCHEMA = """
CREATE TABLE episode (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    text TEXT NOT NULL,
    outcome TEXT NOT NULL,
    tags TEXT NOT NULL,
    data BLOB NOT NULL,
    flow TEXT NOT NULL,
    run TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    model TEXT NOT NULL DEFAULT '',
    vector BLOB,
    UNIQUE (workspace, key)
);
CREATE INDEX episode_created ON episode (workspace, created);
CREATE INDEX episode_model ON episode (model);
CREATE INDEX episode_expires ON episode (expires) WHERE expires IS NOT NULL;
CREATE VIRTUAL TABLE word USING fts5 (place, text, tokenize = 'porter unicode61 remove_diacritics 2');
PRAGMA user_version = 1;
"""
_COLUMNS = "id, text, outcome, tags, data, flow, run, created, expires"
_WORD = re.compile(r"\w+")


class New(Struct, frozen=True, kw_only=True):
    """An episode that is to be kept."""

    workspace: str
    key: str
    text: str
    outcome: str
    tags: Sequence[str]
    data: Any
    flow: str
    run: str
    created: float
    expires: float | None


class Wanted(Struct, frozen=True, kw_only=True):
    """Which episodes of a workspace; what is empty counts for nothing."""

    workspace: str
    ids: Sequence[int] = ()
    outcome: str = ""
    tags: Sequence[str] = ()
    flow: str = ""
    since: float | None = None
    before: float | None = None


class EpisodeStore:
    """All episodes of an engine. Safe from any thread; opened at first use, ``close`` twice is fine."""

    def __init__(self, data: Path, *, sync: bool = True) -> None:
        self._path = data / FILE
        self._sync = sync
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None
        self._closed = False

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; what was written in the block is on disk behind it."""
        with self._lock:
            try:
                connection = self._opened()
                with connection:
                    yield connection
            except sqlite3.Error as exc:
                raise NodeError(f"the memory cannot be used: {exc} ({FILE})") from exc

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise NodeError("the engine is stopping")
        if self._open is None:
            connection = sqlite3.connect(self._path, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._open = connection
        return self._open

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'OFF'}")
        connection.execute("PRAGMA cache_size = -4096")
        connection.execute("PRAGMA secure_delete = ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            # What is forgotten is really gone; before SQLite 3.42 only once FTS5 merges what it has.
            with suppress(sqlite3.Error):
                connection.execute("INSERT INTO word (word, rank) VALUES ('secure-delete', 1)")
                connection.commit()
        elif version > VERSION:
            raise NodeError(f"{FILE} was written by a newer Flowork", retryable=False)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._closed = True
            if self._open is not None:
                self._open.close()
                self._open = None

    # --- writing ---------------------------------------------------------------------------------------

    def add(self, new: New, keep: int) -> tuple[int, bool]:
        """Keep an episode; its id, and whether it is new. Forgets what has expired, and the oldest beyond ``keep``."""
        data = msgspec.json.encode(new.data)
        if len(data) > MOST_DATA:
            raise ConfigError(f"data: has {len(data):,} bytes; an episode keeps at most {MOST_DATA:,}")
        with self._connection() as connection:
            known = connection.execute(
                "SELECT id FROM episode WHERE workspace = ? AND key = ?", (new.workspace, new.key)
            ).fetchone()
            if known is not None:
                return int(known[0]), False
            values = (
                new.workspace, new.key, new.text, new.outcome, _tags(new.tags), data, new.flow, new.run,
                new.created, new.expires,
            )  # fmt: skip
            names = "workspace, key, text, outcome, tags, data, flow, run, created, expires"
            cursor = connection.execute(f"INSERT INTO episode ({names}) VALUES ({', '.join('?' * 10)})", values)
            number = int(cursor.lastrowid or 0)
            text = f"{new.text}\n{' '.join(new.tags)}\n{new.outcome}"
            connection.execute(
                "INSERT INTO word (rowid, place, text) VALUES (?, ?, ?)", (number, _place(new.workspace), text)
            )
            gone = connection.execute("SELECT id FROM episode WHERE expires <= ?", (new.created,)).fetchall()
            gone += connection.execute(
                "SELECT id FROM episode WHERE workspace = ? ORDER BY created DESC, id DESC LIMIT -1 OFFSET ?",
                (new.workspace, keep),
            ).fetchall()
            _delete(connection, [row[0] for row in gone])
        return number, True

    def forget(self, wanted: Wanted, keep: int | None = None) -> list[int]:
        """Delete what fits, but for the newest ``keep`` of it; the ids."""
        with self._connection() as connection:
            where, values = _where(wanted)
            sql = f"SELECT id FROM episode WHERE {where} ORDER BY created DESC, id DESC LIMIT -1 OFFSET ?"
            found = [int(row[0]) for row in connection.execute(sql, [*values, keep or 0])]
            _delete(connection, found)
        return found

    def set_vectors(self, model: str, vectors: Iterable[tuple[int, bytes]]) -> None:
        """Keep the vectors of episodes (float32, little endian)."""
        with self._connection() as connection:
            rows = [(model, vector, number) for number, vector in vectors]
            connection.executemany("UPDATE episode SET model = ?, vector = ? WHERE id = ?", rows)

    # --- reading ---------------------------------------------------------------------------------------

    def get(self, ids: Sequence[int], wanted: Wanted, now: float) -> dict[int, Episode]:
        """Those of the episodes that fit and have not expired."""
        where, values = _where(wanted)
        found: dict[int, Episode] = {}
        with self._connection() as connection:
            for start in range(0, len(ids), _CHUNK):
                part = ids[start : start + _CHUNK]
                sql = (
                    f"SELECT {_COLUMNS} FROM episode WHERE id IN ({', '.join('?' * len(part))}) AND {where} "
                    "AND (expires IS NULL OR expires > ?)"
                )
                for row in connection.execute(sql, [*part, *values, now]):
                    found[row[0]] = _episode(row)
        return found

    def newest(self, wanted: Wanted, now: float, limit: int, below: int | None = None) -> list[Episode]:
        """What fits, newest first; with ``below`` only older ones than that episode."""
        where, values = _where(wanted)
        sql = (
            f"SELECT {_COLUMNS} FROM episode WHERE {where} AND (expires IS NULL OR expires > ?) "
            "AND (? IS NULL OR id < ?) ORDER BY id DESC LIMIT ?"
        )
        with self._connection() as connection:
            return [_episode(row) for row in connection.execute(sql, [*values, now, below, below, limit])]

    def words(self, workspace: str, query: str) -> tuple[dict[int, list[str]], dict[str, int]]:
        """Which of a query's words stand in which episode, and in how many each stands.

        Rare words first; once these have led to many episodes, commoner ones are left out, for they tell little.
        """
        words = list(dict.fromkeys(_WORD.findall(query.casefold())))[: 4 * MOST_WORDS]
        place, found, rows = _place(workspace), dict[int, list[str]](), 0
        with self._connection() as connection:
            counted = {word: _count(connection, word) for word in words}
            chosen = sorted(counted, key=lambda word: counted[word])[:MOST_WORDS]
            looked: dict[str, int] = {}
            for word in chosen:
                if rows and rows + counted[word] > MOST_ROWS:
                    break
                looked[word] = counted[word]
                rows += counted[word]
                if counted[word]:
                    for (number,) in connection.execute(_MATCH, (_matching(place, word), MOST_ROWS)):
                        found.setdefault(number, []).append(word)
        return found, looked

    def count(self, workspace: str) -> int:
        """How many episodes a workspace has."""
        with self._connection() as connection:
            sql = "SELECT count(*) FROM episode WHERE workspace = ?"
            return int(connection.execute(sql, (workspace,)).fetchone()[0])

    def vectors(self, workspace: str, model: str, behind: int = 0) -> list[tuple[int, bytes]]:
        """Ids and vectors of a model, in the order of ids, from behind an id on."""
        sql = "SELECT id, vector FROM episode WHERE workspace = ? AND model = ? AND id > ? ORDER BY id"
        with self._connection() as connection:
            return connection.execute(sql, (workspace, model, behind)).fetchall()

    def without(self, model: str, limit: int) -> list[tuple[int, str]]:
        """Episodes, newest first, that have no vector of this model."""
        sql = "SELECT id, text FROM episode WHERE model < ? OR model > ? ORDER BY id DESC LIMIT ?"
        with self._connection() as connection:
            return connection.execute(sql, (model, model, limit)).fetchall()

    def summary(self, workspace: str) -> dict[str, Any]:
        """How much there is, since when, with vectors of which models, and how it ended."""
        with self._connection() as connection:
            many, first, last = connection.execute(
                "SELECT count(*), min(created), max(created) FROM episode WHERE workspace = ?", (workspace,)
            ).fetchone()
            models = _tally(connection, "model", workspace)
            return {
                "episodes": many,
                "oldest": first,
                "newest": last,
                "bytes": self._path.stat().st_size,
                "vectors": {name: count for name, count in models.items() if name},
                "outcomes": _tally(connection, "outcome", workspace),
            }


_MATCH = "SELECT rowid FROM word WHERE word MATCH ? ORDER BY rowid DESC LIMIT ?"


def _tally(connection: sqlite3.Connection, column: str, workspace: str) -> dict[str, int]:
    sql = f"SELECT {column}, count(*) FROM episode WHERE workspace = ? GROUP BY 1 ORDER BY 2 DESC LIMIT 50"
    return dict(connection.execute(sql, (workspace,)).fetchall())


def _count(connection: sqlite3.Connection, word: str) -> int:
    """In how many episodes, of all workspaces, a word stands; past a bound it is common, however much so."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM word WHERE word MATCH ? LIMIT ?)"
    return int(connection.execute(sql, (f'text : "{word}"', MOST_ROWS + 1)).fetchone()[0])


def _matching(place: str, word: str) -> str:
    return f'place : "{place}" AND text : "{word}"'


def _place(workspace: str) -> str:
    """A workspace as one word that no text has by chance."""
    return f"w{workspace.encode().hex()}"


def _tags(tags: Iterable[str]) -> str:
    """Tags as they are kept: each between line ends, so that one is found without another like it."""
    return "".join(f"\n{tag}" for tag in tags) + "\n" if tags else ""


def _where(wanted: Wanted) -> tuple[str, list[Any]]:
    parts, values = ["workspace = ?"], list[Any]([wanted.workspace])
    if wanted.ids:
        parts.append(f"id IN ({', '.join('?' * len(wanted.ids))})")
        values += wanted.ids
    for tag in wanted.tags:
        parts.append("instr(tags, ?)")
        values.append(f"\n{tag}\n")
    for column, value in (("outcome", wanted.outcome), ("flow", wanted.flow)):
        if value:
            parts.append(f"{column} = ?")
            values.append(value)
    for operator, moment in ((">=", wanted.since), ("<", wanted.before)):
        if moment is not None:
            parts.append(f"created {operator} ?")
            values.append(moment)
    return " AND ".join(parts), values


def _delete(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    rows = [(number,) for number in ids]
    connection.executemany("DELETE FROM word WHERE rowid = ?", rows)
    connection.executemany("DELETE FROM episode WHERE id = ?", rows)


def _episode(row: tuple[Any, ...]) -> Episode:
    number, text, outcome, tags, data, flow, run, created, expires = row
    return Episode(
        id=number,
        text=text,
        outcome=outcome,
        tags=tags.strip("\n").split("\n") if tags else [],
        data=msgspec.json.decode(data),
        flow=flow,
        run=run,
        time=created,
        expires=expires,
    )
