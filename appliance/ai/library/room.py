"""Whether a disk has room, and one that becomes full meanwhile. Imports little: the kernel has it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.ai.library.errors import NoRoom

#: Bytes that are left free on the disk.
SPARE = 200_000_000


def need_room(folder: Path, size: int) -> None:
    """Raises ``NoRoom`` if ``size`` more bytes would leave the disk too full."""
    free = free_on(folder)
    if size + SPARE > free:
        raise NoRoom(
            f"{free / 1e6:,.0f} MB are left on the disk of {folder}; it takes {size / 1e6:,.0f} MB, and "
            f"{SPARE / 1e6:,.0f} MB must stay free. Delete what is not needed (`flowork models remove`), or move the "
            "data folder to a larger disk"
        )


def free_on(folder: Path) -> int:
    """Bytes that the disk of a folder has left."""
    place = os.statvfs(folder)
    return place.f_bavail * place.f_frsize


@contextmanager
def room(folder: Path, came: str = "What has come is kept") -> Iterator[None]:
    """Tell of a disk that is full in words: raises ``NoRoom`` for that, any other ``OSError`` as it is."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(folder, came) from None


def full(folder: Path, came: str) -> NoRoom:
    """The error for a disk that has become full; ``came`` says what is left of the work."""
    return NoRoom(
        f"the disk of {folder} has no room left for models. {came}: make room (`flowork models remove` deletes a "
        "model), and fetch it again"
    )
