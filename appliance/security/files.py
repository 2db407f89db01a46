"""The files under ``keys/``, which a power cut may not tear: written beside, synced, renamed into place."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.contracts import FlowError

LOCK = ".lock"
_LEFTOVER = ".tmp"


class KeysError(FlowError):
    """A key, or a file in the ``keys`` folder, cannot be used as it is."""

    id = "keys"
    retryable = False


def keys_folder(data: Path) -> Path:
    """Where the engine with the data folder ``data`` keeps its keys."""
    return data / "keys"


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` so that a crash leaves the old or the new content, never a part.

    Raises ``OSError``; the old content is then still there.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_LEFTOVER}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names made, renamed or removed in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file durably; one that is not there is fine. Raises ``OSError``."""
    with suppress(FileNotFoundError):
        path.unlink()
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what a crash in the middle of :func:`write_atomic` left. Call with the folder locked."""
    names = []
    for path in folder.glob(f".*{_LEFTOVER}"):
        path.unlink(missing_ok=True)
        names.append(path.name)
    return names


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes and threads that take the same lock.

    The kernel frees a lock with its process, so there is no stale one after a crash. Not reentrant.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the file system raises inside the block into a ``KeysError`` that says what to do."""
    try:
        yield
    except OSError as exc:
        raise KeysError(
            f"cannot use {exc.filename or folder}: {exc.strerror}; the folder must be readable and writable for "
            f"the user Flowork runs as (uid {os.geteuid()}), on a disk with some room"
        ) from None
