"""The last good copy of ``flowork.db``: what takes its place when the card has damaged it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.store.errors import StoreCorrupt, explained
from appliance.store.sqlite_file import (
    backup_database,
    check_database,
    connect,
    files_of,
    folder_lock,
    remove_database,
    replace_file,
)

GOOD_COPY = Path("backups") / "flowork.good.db"
_NOTE = "good_copy"


class CopyMark(Struct, frozen=True):
    """When a copy was made (Unix seconds) and up to which change it has the flows' state.

    ``source`` is what the database's files looked like then: where they still do, nothing has changed since.
    """

    at: float
    state_version: int
    source: str = ""


def keep_good_copy(data: Path, database: Path, now: float, every: float) -> bool:
    """Renew the copy unless it is younger than ``every`` seconds or nothing has changed; True if it was renewed.

    The new copy is checked before it replaces the old one. Raises ``StoreError``; ``StoreCorrupt`` means that
    the database is damaged and that the older copy was kept.
    """
    target = data / GOOD_COPY
    fresh = target.with_name(target.name + ".new")
    with explained(target):
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with folder_lock(target.parent) as mine:
            if not mine:
                return False  # another process is making one at this moment
            last = read_mark(data)
            source = _looks(database)
            if last is not None and (0 <= now - last.at < every or last.source == source):
                return False
            remove_database(fresh)
            try:
                _make(database, fresh, CopyMark(at=now, state_version=0, source=source))
                replace_file(fresh, target)
            finally:
                remove_database(fresh)
    return True


def _looks(database: Path) -> str:
    """Size and time of the database's files: every commit writes to one of them."""
    files = [file.stat() for file in files_of(database)[:2] if file.exists()]
    return " ".join(f"{status.st_size}:{status.st_mtime_ns}" for status in files if status.st_size)


def _make(database: Path, fresh: Path, mark: CopyMark) -> None:
    backup_database(database, fresh)
    with closing(connect(fresh)) as connection:
        state = connection.execute("SELECT value FROM counter WHERE name = 'state_version'").fetchone()
        mark = msgspec.structs.replace(mark, state_version=int(state[0]) if state else 0)
        connection.execute(
            "INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)",
            (_NOTE, msgspec.json.encode(mark).decode()),
        )
    damage = check_database(fresh)
    if damage:
        raise StoreCorrupt(f"{database} is damaged ({damage}); restart Flowork to restore its good copy")


def read_mark(data: Path) -> CopyMark | None:
    """What the copy says of itself; ``None`` if there is no copy that can be read."""
    copy = data / GOOD_COPY
    if not copy.exists():
        return None
    try:
        with closing(connect(copy)) as connection:
            found = connection.execute("SELECT value FROM note WHERE name = ?", (_NOTE,)).fetchone()
            return None if found is None else msgspec.json.decode(found[0], type=CopyMark)
    except (sqlite3.Error, msgspec.MsgspecError):
        return None


def restore_copy(data: Path, database: Path) -> CopyMark | None:
    """Put the copy in the place of ``database``; its mark, or ``None`` if there is no sound copy."""
    copy = data / GOOD_COPY
    if not copy.exists() or check_database(copy) is not None:
        return None
    mark = read_mark(data) or CopyMark(at=copy.stat().st_mtime, state_version=0)
    fresh = database.with_name(database.name + ".restored")
    remove_database(fresh)
    shutil.copyfile(copy, fresh)
    fresh.chmod(0o600)
    replace_file(fresh, database)
    return mark
