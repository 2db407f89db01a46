"""What has come of a file: ``NAME.part``, and beside it ``NAME.part.json`` of what it is the beginning.

On a disk that may become full: what it refuses is told as that, and what others need of it is left to them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.ai.library.errors import ModelIsThere, NoRoom
from appliance.ai.library.room import SPARE, free_on, full, room

#: Bytes between two syncs: what a power cut may cost.
_SYNC = 1 << 26
#: Bytes between two looks at how many these are: others write too while a file comes.
_LOOK = 1 << 22


class Mark(Struct, kw_only=True):
    """Of what a part is the beginning."""

    url: str
    size: int
    etag: str
    modified: str

    @property
    def validator(self) -> str:
        """What ``If-Range`` takes: a strong tag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def known(part: Path, url: str, trust: bool) -> tuple[Mark | None, int]:
    """Of what the part is the beginning, and how much of it there is to go on with."""
    have, mark = length(part), _read_mark(part)
    usable = mark is not None and mark.url == url and (bool(mark.validator) or trust)
    return (mark, have) if usable and have else (None, 0)


class OpenPart:
    """The part, open behind its first ``begin`` bytes. What its disk refuses is ``NoRoom``, not the network's fault."""

    def __init__(self, part: Path, begin: int, size: int) -> None:
        self._part = part
        self._begin = begin
        self._size = size
        self._done = begin
        self._since = 0
        self._unseen = 0

    def __enter__(self) -> OpenPart:
        with self._ours():
            self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, self._begin)
            os.lseek(self._fd, self._begin, os.SEEK_SET)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def mark(self, mark: Mark) -> None:
        """Of what this is the beginning."""
        with self._ours():
            _mark_of(self._part).write_bytes(msgspec.json.encode(mark))

    def write(self, block: bytes) -> None:
        """All of a block; to the disk itself now and then."""
        with self._ours():
            left = memoryview(block)
            while left:
                count = os.write(self._fd, left)
                left = left[count:]
                self._done += count
            self._since += len(block)
            if self._since > _SYNC:
                os.fdatasync(self._fd)
                self._since = 0
        self._unseen += len(block)
        if self._unseen > _LOOK:
            self._unseen = 0
            # Half of what is spared: what a file takes beside its bytes, and others write, is not to end it at once.
            if free_on(self._part.parent) < SPARE // 2:
                raise full(self._part.parent, self._came())

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            with room(self._part.parent, self._came()):
                yield
        except OSError as exc:
            raise NoRoom(f"{self._part}: {(exc.strerror or str(exc)).lower()}") from None

    def _came(self) -> str:
        of = f" of {self._size / 1e6:,.1f}" if self._size else ""
        return f"{self._done / 1e6:,.1f}{of} MB have come and are kept"


def _lock_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.lock")


def _mark_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_mark(part: Path) -> Mark | None:
    try:
        return msgspec.json.decode(_mark_of(part).read_bytes(), type=Mark)
    except (OSError, msgspec.MsgspecError):
        return None


def length(part: Path) -> int:
    """Bytes that have come."""
    try:
        return part.stat().st_size
    except OSError:
        return 0


def whole(part: Path) -> int:
    """Bytes that the whole file has; 0: not known."""
    mark = _read_mark(part)
    return mark.size if mark is not None else 0


@contextmanager
def alone(part: Path) -> Iterator[None]:
    """One at a time fetches a file. Raises ``ModelIsThere``."""
    handle = os.open(_lock_of(part), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ModelIsThere(f"{part.stem} is being fetched already") from None
    try:
        yield
    finally:
        os.close(handle)


def forget(part: Path) -> None:
    """Delete what has come."""
    part.unlink(missing_ok=True)
    _mark_of(part).unlink(missing_ok=True)
    _lock_of(part).unlink(missing_ok=True)


def take(part: Path, target: Path) -> None:
    """Give what has come its name, for good: content first, then the name (rename(2))."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    _mark_of(part).unlink(missing_ok=True)
    _lock_of(part).unlink(missing_ok=True)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
