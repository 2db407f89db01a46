"""Waiting for processes that are not our children."""

from __future__ import annotations

import os
import select


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends within some seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)
