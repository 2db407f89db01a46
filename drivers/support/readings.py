"""Readings of this machine's health, each from the kernel's own file under ``root`` (``/``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

#: Bits of the firmware's word: now under voltage, clocked down, throttled, soft limit of temperature.
_UNDERVOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT = 0x1, 0x2, 0x4, 0x8


class Readings:
    """``read`` gives a number, a truth, or ``None`` where this machine does not tell (or not yet, for a rate)."""

    def __init__(self, root: Path, path: str, interface: str, monotonic: Callable[[], float]) -> None:
        self._root = root
        self._path = path
        self._interface = interface
        self._clock = monotonic
        self._cpu: tuple[int, int] | None = None
        self._traffic: dict[str, tuple[float, int]] = {}

    def read(self, metric: str) -> float | bool | None:
        try:
            found: float | bool | None = getattr(self, f"_read_{metric}")()
        except (OSError, ValueError, IndexError):
            return None
        return round(found, 2) if isinstance(found, float) else found

    # --- proc(5) ---

    def _read_cpu(self) -> float | None:
        """Percent of all cores together, since the last reading."""
        ticks = [int(word) for word in self._text("proc/stat").splitlines()[0].split()[1:9]]
        total, idle = sum(ticks), ticks[3] + ticks[4]
        before, self._cpu = self._cpu, (total, idle)
        if before is None or total <= before[0]:
            return None
        return 100 * (1 - (idle - before[1]) / (total - before[0]))

    def _read_load(self) -> float:
        return float(self._text("proc/loadavg").split()[0])

    def _read_memory(self) -> float:
        """Percent that programs could not have."""
        lines = dict(line.split(":", 1) for line in self._text("proc/meminfo").splitlines())
        total, available = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return 100 * (1 - available / total)

    def _read_network_in(self) -> float | None:
        return self._rate("in", 0)

    def _read_network_out(self) -> float | None:
        return self._rate("out", 8)

    def _rate(self, name: str, column: int) -> float | None:
        """kB a second since the last reading, of the interface or of all but the loopback."""
        total = 0
        for line in self._text("proc/net/dev").splitlines()[2:]:
            interface, _, numbers = line.partition(":")
            if interface.strip() == self._interface or (not self._interface and interface.strip() != "lo"):
                total += int(numbers.split()[column])
        now = self._clock()
        before = self._traffic.get(name)
        self._traffic[name] = now, total
        if before is None or now <= before[0] or total < before[1]:
            return None
        return (total - before[1]) / (now - before[0]) / 1000

    # --- sysfs ---

    def _read_temperature(self) -> float | None:
        """°C of the hottest zone."""
        zones = (int(self._file(zone / "temp")) / 1000 for zone in self._folders("sys/class/thermal", "thermal_zone*"))
        return max((degrees for degrees in zones if -60 < degrees < 200), default=None)

    def _read_link(self) -> bool | None:
        """Whether the interface (or any but the loopback) is up."""
        found = [
            self._file(interface / "operstate") == "up"
            for interface in self._folders("sys/class/net", self._interface or "*")
            if interface.name != "lo"
        ]
        return any(found) if found else None

    def _read_battery(self) -> float | None:
        """Percent of the emptiest battery."""
        supplies = self._folders("sys/class/power_supply", "*")
        found = [
            float(self._file(supply / "capacity"))
            for supply in supplies
            if self._file(supply / "type") in ("Battery", "UPS") and (supply / "capacity").exists()
        ]
        return min(found, default=None)

    def _read_mains(self) -> bool | None:
        """Whether any mains supply has power."""
        found = [
            self._file(supply / "online") != "0"
            for supply in self._folders("sys/class/power_supply", "*")
            if self._file(supply / "type") in ("Mains", "USB") and (supply / "online").exists()
        ]
        return any(found) if found else None

    def _read_disk_wear(self) -> float | None:
        """Percent of its life that the most worn eMMC has behind it (JEDEC eMMC 5.0, steps of ten)."""
        worn = [
            int(word, 16) * 10
            for card in self._folders("sys/block", "mmcblk*")
            if (card / "device/life_time").exists()
            for word in self._file(card / "device/life_time").split()
        ]
        return float(max(worn)) if worn and max(worn) > 0 else None

    def _read_undervoltage(self) -> bool | None:
        word = self._throttled()
        if word is not None:
            return bool(word & _UNDERVOLTAGE)
        for sensor in self._folders("sys/class/hwmon", "*"):  # kernels that are not the Pi's own
            if self._file(sensor / "name") == "rpi_volt":
                return self._file(sensor / "in0_lcrit_alarm") == "1"
        return None

    def _read_throttled(self) -> bool | None:
        word = self._throttled()
        return None if word is None else bool(word & (_CAPPED | _THROTTLED | _SOFT_LIMIT))

    def _throttled(self) -> int | None:
        file = self._root / "sys/devices/platform/soc/soc:firmware/get_throttled"
        return int(self._file(file), 16) if file.exists() else None

    # --- the disk ---

    def _read_disk(self) -> float:
        """Percent used, as df counts it."""
        found = os.statvfs(self._path)
        used = found.f_blocks - found.f_bfree
        return 100 * used / max(1, used + found.f_bavail)

    # --- files ---

    def _text(self, name: str) -> str:
        return (self._root / name).read_text(errors="replace")

    def _file(self, path: Path) -> str:
        return path.read_text(errors="replace").strip()

    def _folders(self, name: str, pattern: str) -> Iterator[Path]:
        return iter(sorted((self._root / name).glob(pattern)))
