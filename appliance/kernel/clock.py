"""Is the system clock right? A Raspberry Pi has no clock of its own and wakes up in the past.

Trusted when the kernel says that it is synchronized (``adjtimex``), when systemd-timesyncd has left its mark, or
when a hardware clock is there and the time is not before anything this engine has written.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
_HARDWARE = Path("/sys/class/rtc/rtc0")
#: No clock that is right can show less: the year of this release.
_EARLIEST = 1_767_225_600.0
_RECHECK = 5.0


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2); only ``status`` is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def kernel_says_synchronized() -> bool:
    """What adjtimex(2) says; False where it cannot be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = _Timex()
        state = libc.adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR and not timex.status & _STA_UNSYNC


class Clock:
    """Asked often; looks again every few seconds, and never again once the clock was right."""

    def __init__(
        self,
        newest: Callable[[], float],
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        synchronized: Callable[[], bool] = kernel_says_synchronized,
        mark: Path = _SYNCHRONIZED,
        hardware: Path = _HARDWARE,
    ) -> None:
        self._newest = newest
        self._wall = wall
        self._monotonic = monotonic
        self._synchronized = synchronized
        self._mark = mark
        self._hardware = hardware
        self._answer = (False, "not looked at yet")
        self._again = 0.0

    def trusted(self) -> tuple[bool, str]:
        """Whether the clock is right, and how that is known (or what is missing)."""
        if not self._answer[0] and self._monotonic() >= self._again:
            self._again = self._monotonic() + _RECHECK
            self._answer = self._look()
        return self._answer

    def _look(self) -> tuple[bool, str]:
        now = self._wall()
        if now < _EARLIEST:
            return False, "the system clock shows a time long ago"
        if now < self._newest() - 60:
            return False, "the system clock is behind this engine's own history"
        if self._synchronized():
            return True, "synchronized by network time"
        if self._mark.exists():
            return True, "synchronized by systemd-timesyncd"
        if self._hardware.exists():
            return True, "kept by the hardware clock"
        return False, "not synchronized, and there is no hardware clock; set `clock: trust` if it is right"
