"""A disk that becomes full while something is written to it. Imports little: the kernel has it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.ai.library.errors import NoRoom


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
