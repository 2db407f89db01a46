"""The run shards: one SQLite file a UTC day under ``runs/``, its schema, how it is opened, and what is there.

Pages are small (1 KiB) because a group commit writes whole pages: with small ones a run costs a fraction of
the bytes on the card. There is no VACUUM and no row-by-row ageing: retention rewrites or deletes whole files.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from appliance.contracts import FlowError
from appliance.store.sqlite_file import move_aside

logger = logging.getLogger(__name__)

PAGE_SIZE = 1024
#: The writer checkpoints by itself only past this many pages; the kernel does it earlier, off its hot path.
AUTO_CHECKPOINT = 65_536
#: What the log of the newest shard is lengthened to, in bytes: some 400 commits, a quiet day. That of a busy one has
#: grown longer by itself before anybody looks.
LOG_LENGTH = 1 << 20
_NAME = re.compile(r"^\d{4}-\d{2}-\d{2}\.db$")

# Instead of an index on (flow, id), which every commit would write a page of, `flow_span` notes once in some
# seconds that a flow ran; the runs of a flow are looked for in its spans.
SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
  id INTEGER PRIMARY KEY,
  flow INTEGER NOT NULL, version INTEGER NOT NULL, place TEXT NOT NULL,
  state INTEGER NOT NULL, accepted INTEGER NOT NULL, finished INTEGER,
  trigger TEXT NOT NULL, event BLOB NOT NULL, error BLOB,
  parent INTEGER, origin INTEGER, letter INTEGER NOT NULL DEFAULT 0, steps BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunk (
  run INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flow_span (
  flow INTEGER NOT NULL, span INTEGER NOT NULL, PRIMARY KEY (flow, span)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event_key (key TEXT PRIMARY KEY, run INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state_op (
  ver INTEGER PRIMARY KEY, flow INTEGER NOT NULL, key TEXT NOT NULL, value BLOB);
CREATE TABLE IF NOT EXISTS blob_use (
  hash TEXT NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (hash, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS letter_note (
  run INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS run_under_way ON run (id) WHERE state < 10;
CREATE INDEX IF NOT EXISTS run_not_good ON run (state, id) WHERE state > 10;
CREATE INDEX IF NOT EXISTS run_letter ON run (id) WHERE letter = 1;
CREATE INDEX IF NOT EXISTS run_child ON run (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS run_origin ON run (origin) WHERE origin IS NOT NULL;
"""
VERSION = 1


class StoreFailure(FlowError):
    """The disk refused: full, read-only or damaged."""

    id = "store-failed"


def runs_folder(data: Path) -> Path:
    """Where the shards lie."""
    return data / "runs"


def shard_path(data: Path, day: str) -> Path:
    """The file of a day."""
    return runs_folder(data) / f"{day}.db"


def days(data: Path) -> list[str]:
    """The days that have a shard, newest first."""
    folder = runs_folder(data)
    try:
        names = [entry.name for entry in folder.iterdir() if _NAME.match(entry.name)]
    except FileNotFoundError:
        return []
    return sorted((name[:-3] for name in names), reverse=True)


def open_writer(path: Path, *, sync: bool) -> sqlite3.Connection:
    """Open or make a shard for writing. Raises ``sqlite3.DatabaseError`` for a damaged file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint={AUTO_CHECKPOINT}")
        connection.execute("PRAGMA cache_size=-2000")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        elif found > VERSION:
            raise StoreFailure(f"{path.name} was written by a newer Flowork; update this one")
        connection.execute("SELECT id FROM run WHERE state < 10 LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def lengthen_log(path: Path) -> None:
    """Put zeros behind what the WAL of an open shard holds, so that commits need not lengthen it.

    Each sync that finds a file longer has ext4 write three blocks of its own journal too, with a barrier of its own:
    four times what the commit itself is (docs/decisions/journal.md). SQLite takes zeros for the end of its log, as it
    takes what is left there from before the log began anew. A disk that refuses is left alone.
    """
    log = files_of(path)[1]
    with suppress(OSError, sqlite3.Error):
        if log.stat().st_size >= LOG_LENGTH:
            return
        with closing(sqlite3.connect(_uri(path, "rw"), uri=True, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # nobody writes behind the end meanwhile
            with log.open("r+b") as file:
                file.write(bytes(max(0, LOG_LENGTH - file.seek(0, os.SEEK_END))))


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a shard for reading; it must exist. Raises ``sqlite3.DatabaseError`` for a damaged file."""
    connection = sqlite3.connect(_uri(path, "ro"), uri=True, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA cache_size=-2000")
    except BaseException:
        connection.close()
        raise
    return connection


def _uri(path: Path, mode: str) -> str:
    return f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode={mode}"


def files_of(path: Path) -> list[Path]:
    """A database with its WAL and shared-memory files."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def bytes_of(path: Path) -> int:
    """What a shard takes on disk, its WAL included; files may go while they are counted."""
    total = 0
    for file in files_of(path):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


def total_bytes(data: Path) -> int:
    """What all shards take on disk."""
    return sum(bytes_of(shard_path(data, day)) for day in days(data))


def set_aside(data: Path, path: Path, reason: str) -> Path:
    """Move a damaged shard into ``corrupt/`` so that a new one can take its place; says so loudly."""
    target = move_aside(path, data / "corrupt", time.time())
    logger.error("%s is damaged (%s): moved to %s, history goes on in a new file", path.name, reason, target)
    return target


def is_damage(error: sqlite3.Error) -> bool:
    """True if the error means that the file itself is broken."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
