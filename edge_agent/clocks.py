"""The clocks of a machine: the one that people set, and the one that nobody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct


class Clocks(Struct, frozen=True):
    """Unix seconds, seconds since boot, and which boot that is; injected in tests."""

    wall: Callable[[], float]
    up: Callable[[], float]
    boot: str


def system_clocks() -> Clocks:
    """The clocks of this machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        boot = ""
    return Clocks(time.time, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), boot)
