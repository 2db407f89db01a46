"""A SQLite database as a file: is it sound, copy it while it is in use, move it, put it on disk for good.

Knows nothing of what is inside; works for ``flowork.db`` and for the run shards.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from appliance.store.errors import StoreBusy, explained

_SIDE_FILES = ("-wal", "-shm", "-journal")
_COPY_PAGES = 256
_POLL = 0.02

#: ``progress(pages done, pages in all)``.
Progress = Callable[[int, int], None]


def connect(path: Path, timeout: float = 5.0) -> sqlite3.Connection:
    """A plain connection in autocommit mode to a file that exists. Raises ``sqlite3.Error``."""
    return sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=timeout, isolation_level=None)


def check_database(path: Path) -> str | None:
    """What is wrong with a database file, or ``None``: its header, then ``PRAGMA quick_check``.

    A file that is merely in the way of the operating system (no permission, no such folder, disk trouble)
    is not damaged: that raises ``StoreError``, so that nobody moves a good file aside for it.

    Only SQLite opens the file. Were it opened and closed by other means, that would drop the locks of all
    connections this process has to it, and another process could delete the WAL under them
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    with explained(path):
        if path.stat().st_size == 0:
            return "it is empty"
        try:
            return _quick_check(path)
        except sqlite3.DatabaseError as exc:
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                return str(exc)
            raise


def _quick_check(path: Path) -> str | None:
    with closing(connect(path)) as connection:
        found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    if found != ["ok"]:
        return "; ".join(str(line) for line in found)
    return f"rows of {orphans[0][0]} refer to rows that are gone ({len(orphans)} in all)" if orphans else None


def backup_database(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Copy a database that may be in use, as of one moment, into the new file ``target`` (mode 0600).

    SQLite's online backup in small steps. A read transaction pins the moment, for otherwise every commit
    of another process starts the copy again from the first page. On return the copy is on disk, complete
    in one file. Raises ``StoreError`` and leaves no target behind.
    """
    with explained(target), _removed_on_error(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        with closing(connect(source)) as here, closing(connect(target)) as there:
            here.execute("BEGIN")
            here.execute("SELECT count(*) FROM sqlite_master").fetchone()

            def step(_status: int, remaining: int, total: int) -> None:
                if progress is not None:
                    progress(total - remaining, total)

            here.backup(there, pages=_COPY_PAGES, progress=step, sleep=0.001)
            there.execute("PRAGMA journal_mode=DELETE").fetchone()
        sync_file(target)


@contextmanager
def _removed_on_error(target: Path) -> Iterator[None]:
    existed = target.exists()
    try:
        yield
    except BaseException:
        if not existed:
            remove_database(target)
        raise


def remove_database(path: Path) -> None:
    """Delete a database with its WAL, if it is there."""
    for file in files_of(path):
        file.unlink(missing_ok=True)


def files_of(path: Path) -> list[Path]:
    """The database and the files SQLite may keep beside it."""
    return [path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILES)]


def move_aside(path: Path, folder: Path, now: float) -> Path:
    """Move a damaged database and its WAL into ``folder`` as ``<name>.<utc>``; the new path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    target = folder / f"{path.name}.{stamp}"
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{stamp}-{number}"
    # The WAL goes first: cut off in between, the next start finds the same damaged file again, not a
    # healthy one beside somebody else's WAL.
    for file in reversed(files_of(path)):
        if file.exists():
            file.rename(target.with_name(target.name + file.name.removeprefix(path.name)))
    sync_folder(folder)
    sync_folder(path.parent)
    return target


def replace_file(source: Path, target: Path) -> None:
    """Put a finished file in the place of another so that a power cut leaves the old or the new one."""
    sync_file(source)
    source.replace(target)
    sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries (names, renames) are on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def folder_lock(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Be the only process in this block for that folder; False if another one is, even after ``patience`` s."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    end = time.monotonic() + patience
    try:
        while not (mine := _try_lock(handle, fcntl.LOCK_EX)) and time.monotonic() < end:
            time.sleep(_POLL)
        yield mine
    finally:
        os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class UserLock:
    """Who uses a database: a lock file held shared while it is open, and alone to repair or migrate it.

    ``flock``, so that a killed process lets go by itself. A forked child shares its parent's hold.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1

    def acquire(self, deadline: float) -> bool:
        """Take hold: True if alone, False if shared with others. Waits ``deadline`` seconds for a repair."""
        self._handle = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + deadline
        while True:
            if _try_lock(self._handle, fcntl.LOCK_EX):
                return True
            if _try_lock(self._handle, fcntl.LOCK_SH):
                return False
            if time.monotonic() > end:
                self.release()
                raise StoreBusy(f"another process is still repairing the data in {self._path.parent}")
            time.sleep(_POLL)

    def alone(self) -> bool:
        """Try to be the only user; on False the hold is still shared."""
        if _try_lock(self._handle, fcntl.LOCK_EX):
            return True
        fcntl.flock(self._handle, fcntl.LOCK_SH)  # a failed conversion loses the shared hold: flock(2)
        return False

    def share(self) -> None:
        """Let other processes in."""
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go; twice is fine. Closing (not unlocking) keeps the hold of a forked child."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(OSError):
                os.close(handle)
