"""How to see that an agent works on a folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

LOCK = "lock"


def is_running(folder: Path) -> bool:
    """Whether an agent works on a folder at this moment."""
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
