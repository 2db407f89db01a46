"""Open ``flowork.db`` whatever state the last power cut left it in.

The first process to open it checks it, repairs it and brings it up to date, alone; processes that come later
only look whether it is theirs to use. A damaged file is moved aside and the last good copy takes its place;
all of that is told in an :class:`OpenReport`, which stays in the database until somebody has read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from appliance.store.errors import StoreError, explained
from appliance.store.good_copy import GOOD_COPY, restore_copy
from appliance.store.migrations import migrate, pending
from appliance.store.sqlite_file import (
    UserLock,
    check_database,
    connect,
    move_aside,
    remove_database,
)

DATABASE = "flowork.db"
LOCK = "flowork.db.lock"
#: Left behind by a restore that was cut off; what lies in the folder is not complete then.
RESTORING = ".restoring"
#: Name of the note that keeps the report of a repair.
REPAIR_NOTE = "repair"

_REPAIR_DEADLINE = 120.0


class OpenReport(Struct, frozen=True, kw_only=True):
    """What opening did. ``restored`` and ``emptied`` mean loss and are to be shown loudly.

    ``copy_time`` is the moment (Unix seconds) of the good copy that took the damaged file's place; what was
    changed after it is lost: versions, users, and revocations of tokens too.
    """

    state: Literal["opened", "created", "migrated", "restored", "emptied"]
    message: str
    at: float
    damage: str = ""
    moved_to: str = ""
    copy_time: float | None = None

    @property
    def loss(self) -> bool:
        """True if something was lost."""
        return self.state in ("restored", "emptied")


def prepare(data: Path, lock: UserLock, now: Callable[[], float]) -> OpenReport:
    """Make ``flowork.db`` in ``data`` ready for use and take hold of it. Raises ``StoreError``."""
    if (data / RESTORING).exists():
        raise StoreError(
            f"a restore into {data} was cut off: empty the folder, then run `flowork restore` again",
            retryable=False,
        )
    path = data / DATABASE
    with explained(path):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        alone = lock.acquire(_REPAIR_DEADLINE)
        try:
            if alone or (_needs_work(path) and lock.alone()):
                report = _prepare_alone(data, path, now())
                lock.share()
                return report
            return _join_others(path, now())
        except BaseException:
            lock.release()
            raise


def _needs_work(path: Path) -> bool:
    return not path.exists() or bool(pending(path))


def _join_others(path: Path, now: float) -> OpenReport:
    if _needs_work(path):
        raise StoreError(
            f"{path} needs an update or a repair while other processes use it: stop Flowork, then start it again"
        )
    return OpenReport(state="opened", message="opened", at=now)


def _prepare_alone(data: Path, path: Path, now: float) -> OpenReport:
    damage = _damage(data, path)
    if damage is None:
        fresh = not path.exists() or path.stat().st_size == 0
        return _update(path, now, fresh=fresh)
    return _repair(data, path, damage, now)


def _damage(data: Path, path: Path) -> str | None:
    empty = not path.exists() or path.stat().st_size == 0
    if empty and not (data / GOOD_COPY).exists():
        return None  # the first start, or one that was cut off before anything was written
    return check_database(path) if path.exists() else "it is missing"


def _update(path: Path, now: float, *, fresh: bool) -> OpenReport:
    if fresh:
        path.touch(mode=0o600)
        _use_wal(path)
    steps = migrate(path)
    if fresh:
        return OpenReport(state="created", message="made a new database", at=now)
    if steps:
        done = ", ".join(step.title for step in steps)
        return OpenReport(state="migrated", message=f"updated the database: {done}", at=now)
    return OpenReport(state="opened", message="opened", at=now)


def _use_wal(path: Path) -> None:
    with closing(connect(path)) as connection:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"the file system of {path} does not allow SQLite's WAL; use a local disk")


def _repair(data: Path, path: Path, damage: str, now: float) -> OpenReport:
    moved = str(move_aside(path, data / "corrupt", now)) if path.exists() else ""
    remove_database(path)
    copy = restore_copy(data, path)
    if copy is None:
        path.touch(mode=0o600)
    _use_wal(path)
    migrate(path)
    report = _repair_report(damage, moved, copy.at if copy else None, now)
    _skip_ids(path, now)
    _keep_report(path, report)
    return report


def _repair_report(damage: str, moved: str, copy_time: float | None, now: float) -> OpenReport:
    kept = f"the damaged file is kept as {moved}" if moved else "there is no file to keep"
    if copy_time is None:
        text = f"flowork.db was damaged ({damage}) and there was no good copy: flows and users are gone; {kept}"
        return OpenReport(state="emptied", message=text, at=now, damage=damage, moved_to=moved)
    when = _utc(copy_time)
    text = (
        f"flowork.db was damaged ({damage}); the copy of {when} took its place and changes made after it are "
        f"lost, revoked tokens too: check flows and tokens; {kept}"
    )
    return OpenReport(state="restored", message=text, at=now, damage=damage, moved_to=moved, copy_time=copy_time)


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def _skip_ids(path: Path, now: float) -> None:
    """Leap over the ids given out after the copy was made: runs name them, and they must stay theirs.

    Ids count saves, fewer than one a second over the years, so the Unix time is above all of them. The
    second term is for a clock that is wrong.
    """
    with closing(connect(path)) as connection:
        for table in ("flow", "version"):
            newest = connection.execute(f"SELECT coalesce(max({_KEY[table]}), 0) FROM {table}").fetchone()[0]
            leap = max(int(now), newest + 1_000_000)
            connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, leap))


_KEY = {"flow": "num", "version": "id"}


def _keep_report(path: Path, report: OpenReport) -> None:
    with closing(connect(path)) as connection:
        connection.execute(
            "INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)",
            (REPAIR_NOTE, msgspec.json.encode(report).decode()),
        )
