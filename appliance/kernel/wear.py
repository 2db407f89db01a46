"""How much is written to the disk, and when that is too much for a memory card: the write budget.

Counted is what this process has sent to the disk (proc(5), ``/proc/self/io``), minute by minute for a day. Over the
budget history waits and is written once a minute (``Keeper.thrifty``): a card wears by the page, not by the byte.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MINUTES = 24 * 60
#: The budget of a day is spent evenly: this many minutes decide.
WINDOW = 60
_SECTOR = 512


def written_by_us() -> int:
    """Bytes that this process has had written to a disk since it began."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:  # a kernel without task accounting
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("write_bytes:")), 0)


class Wear:
    """What was written. ``look`` once a minute; everything else may be asked at any time, from any thread."""

    def __init__(
        self, data: Path, *, written: Callable[[], int] = written_by_us, block: Path = Path("/sys/dev/block")
    ) -> None:
        self._data = data
        self._written = written
        self._block = block
        self._last: int | None = None
        self._minutes: deque[int] = deque(maxlen=_MINUTES)

    def look(self) -> None:
        """Count the minute that is over."""
        total = self._written()
        self._minutes.append(max(0, total - (self._last or 0)))
        self._last = total

    def over(self, day: float) -> bool:
        """Whether the last hour has taken more than its share of a budget of ``day`` bytes a day; 0: no bound."""
        return day > 0 and sum(list(self._minutes)[-WINDOW:]) > day / _MINUTES * WINDOW

    def on_card(self) -> bool:
        """Whether the data lie on an SD card or on eMMC."""
        device = self._device()
        return device is not None and "mmcblk" in str(device)

    def disk_total(self) -> int | None:
        """Bytes that anybody has written to the data folder's disk since the boot; None where it is not known."""
        device = self._device()
        try:
            return None if device is None else int((device / "stat").read_text().split()[6]) * _SECTOR
        except (OSError, ValueError, IndexError):
            return None

    def view(self) -> dict[str, Any]:
        """For the health page: bytes."""
        minutes = list(self._minutes)
        return {
            "last_day": sum(minutes),
            "last_hour": sum(minutes[-WINDOW:]),
            "minutes": len(minutes),
            "disk_since_boot": self.disk_total(),
            "card": self.on_card(),
        }

    def _device(self) -> Path | None:
        try:
            number = self._data.stat().st_dev
            found = (self._block / f"{os.major(number)}:{os.minor(number)}").resolve()
        except OSError:
            return None
        return found if found.exists() else None
