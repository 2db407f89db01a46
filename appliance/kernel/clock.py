"""Is the system clock right? A Raspberry Pi has no clock of its own and wakes up in the past.

In this order: a year before this release is wrong; network time is right (``adjtimex``, or systemd-timesyncd's
mark); a time before what this engine has already written is wrong; a clock that was right since this boot still is;
a hardware clock that agrees is right. Nothing of all that: not known, so not trusted.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable
from pathlib import Path

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_MARK = Path("/run/systemd/timesync/synchronized")
_RTC = Path("/sys/class/rtc/rtc0/since_epoch")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: No clock that is right can show less: the year of this release.
_EARLIEST = 1_767_225_600.0
#: A hardware clock may run in local time: up to 14 hours off, and one for its own error.
_AGREES = 15 * 3600.0
_HISTORY_AHEAD = 60.0
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
    """What adjtimex(2) says; False where it cannot be asked.

    The kernel takes it back about nine hours after the last word from a time server.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = _Timex()
        state = libc.adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR and not timex.status & _STA_UNSYNC


def hardware_time() -> float | None:
    """What the hardware clock shows (Unix seconds, perhaps of local time); None without one."""
    try:
        return float(_RTC.read_text())
    except (OSError, ValueError):
        # A PC always has one, and a virtual one its host's, even where Linux shows no device (a small VM).
        return time.time() if platform.machine() in ("x86_64", "i686") else None


def boot_id() -> str:
    """A text that differs with every boot of this machine, empty where there is none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Clock:
    """Asked often; looks again every few seconds, and never again once the clock was right.

    ``newest``: Unix seconds of the latest thing in the engine's history. ``kept``: a file that remembers in which
    boot the clock was right, for a restart of the engine long after the last word from a time server.
    """

    def __init__(
        self,
        newest: Callable[[], float],
        kept: Path | None = None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        synchronized: Callable[[], bool] = kernel_says_synchronized,
        mark: Path = _MARK,
        hardware: Callable[[], float | None] = hardware_time,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._newest = newest
        self._kept = kept
        self._wall = wall
        self._monotonic = monotonic
        self._synchronized = synchronized
        self._mark = mark
        self._hardware = hardware
        self._boot = boot
        self._answer = (False, "not looked at yet")
        self._again = -_RECHECK

    def trusted(self) -> tuple[bool, str]:
        """Whether the clock is right, and how that is known (or what is missing)."""
        if not self._answer[0] and self._monotonic() >= self._again:
            self._again = self._monotonic() + _RECHECK
            self._answer = self._look()
            if self._answer[0]:
                self._remember()
        return self._answer

    def _look(self) -> tuple[bool, str]:
        now = self._wall()
        if now < _EARLIEST:
            return False, "the system clock shows a time long ago; waiting for network time"
        if self._synchronized():
            return True, "synchronized by network time"
        if self._mark.exists():
            return True, "synchronized by systemd-timesyncd"
        if now < self._newest() - _HISTORY_AHEAD:
            return False, "the system clock is behind this engine's own history; waiting for network time"
        if self._was_right():
            return True, "it was right earlier since this boot"
        return self._by_hardware(now)

    def _by_hardware(self, now: float) -> tuple[bool, str]:
        shown = self._hardware()
        if shown is None:
            return False, "not synchronized, and there is no hardware clock; set `clock: trust` if it is right"
        if abs(shown - now) > _AGREES:
            return False, "the hardware clock has lost the time (its battery?); waiting for network time"
        return True, "kept by the hardware clock"

    def _was_right(self) -> bool:
        boot = self._boot()
        try:
            return self._kept is not None and bool(boot) and self._kept.read_text() == boot
        except (OSError, ValueError):
            return False

    def _remember(self) -> None:
        if self._kept is None or self._was_right():
            return
        try:
            self._kept.write_text(self._boot())
        except OSError:
            return  # a full disk or a read-only folder: then the next start has to find out again
