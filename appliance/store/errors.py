"""Errors of the store, and what SQLite's result codes mean to a person.

Nothing else of SQLite or peewee leaves this package: callers catch the classes below.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.contracts import FlowError


class StoreError(FlowError):
    """The database could not do what was asked."""

    id = "store"


class StoreBusy(StoreError):
    """Another process held the database's write lock for too long."""

    id = "store-busy"


class StoreFull(StoreError):
    """No room is left on the disk."""

    id = "disk-full"


class StoreReadOnly(StoreError):
    """The data folder cannot be written to."""

    id = "read-only"
    retryable = False


class StoreCorrupt(StoreError):
    """The file is damaged; the next start moves it aside and restores the last good copy."""

    id = "store-corrupt"
    retryable = False


class StoreTooNew(StoreError):
    """The database was written by a newer Flowork than this one."""

    id = "store-too-new"
    retryable = False


class StoreAway(StoreError):
    """The database server cannot be reached."""

    id = "store-away"


class LeaseLost(FlowError):
    """Another kernel has taken over from this one, which may not write any more."""

    id = "lease-lost"
    retryable = False


class EventTaken(FlowError):
    """Another kernel was first to make a run of a unique event: ours must not be made.

    ``taken`` names, for each run of the batch that is one too many, the run that there is.
    """

    id = "event-taken"
    retryable = False

    def __init__(self, taken: dict[int, int]) -> None:
        super().__init__(f"{len(taken)} events have their runs already, made by another kernel")
        self.taken = taken


class NotFound(FlowError):
    """What was named does not exist (any more)."""

    id = "not-found"
    retryable = False


class AlreadyExists(FlowError):
    """A name that must be unique is taken."""

    id = "already-exists"
    retryable = False


class Conflict(FlowError):
    """A save is based on version ``yours``, but ``newest`` is there already: no edit is lost silently."""

    id = "conflict"
    retryable = False

    def __init__(self, yours: int | None, newest: int) -> None:
        based = f"based on version {yours}" if yours is not None else "for a new flow"
        super().__init__(
            f"your edit is {based}, but version {newest} is the newest; compare the two, then save on top of "
            f"version {newest}",
            detail={"yours": yours, "newest": newest},
        )
        self.yours = yours
        self.newest = newest


_PRIMARY = 0xFF  # an extended result code holds its primary code in the low byte (sqlite.org/rescode.html)


def explain(error: BaseException, path: Path) -> StoreError:
    """The :class:`StoreError` for an error of ``sqlite3`` (or of the file system) on the file ``path``."""
    if isinstance(error, OSError):
        return _explain_os(error, path)
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    folder = path.parent
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"no room left for {path.name}: free some space on the disk of {folder}")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreReadOnly(
            f"cannot open {path} for writing: make {folder} writable for the user Flowork runs as, "
            "and check that the disk is not mounted read-only"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"{path} is damaged ({error}); restart Flowork to restore its last good copy")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"{path.name} is locked by another process; try again in a moment")
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"the disk failed while {path} was used ({error}); check the disk and its free space")
    return StoreError(f"{path.name}: {error}")


def _explain_os(error: OSError, path: Path) -> StoreError:
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(f"no room left to write {where}: free some space on that disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnly(f"cannot write {where}: {error.strerror}; check its owner and that the disk is writable")
    return StoreError(f"{where}: {error.strerror or error}")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what ``sqlite3`` and the file system raise inside the block into a :class:`StoreError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise explain(exc, path) from exc
