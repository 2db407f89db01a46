"""What the machine under the engine suffers from: lack of memory, heat, a weak power supply, a worn disk.

Read from ``/proc`` and ``/sys``. A quantity that a machine does not tell is None, and never a fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

#: Bits of the Raspberry Pi's firmware (documented at `vcgencmd get_throttled`): now, and since the boot.
_POWER, _CAPPED, _THROTTLED, _HOT = 0x1, 0x2, 0x4, 0x8
_SINCE_BOOT = 16
_THROTTLE_FILE = "devices/platform/soc/soc:firmware/get_throttled"


class Strain(Struct, frozen=True, kw_only=True):
    """What was found. Shares are from 0 to 1, temperatures °C.

    ``stalled`` is the share of the last minute in which somebody, ``frozen`` in which everybody waited for memory
    (PSI, Documentation/accounting/psi.rst). ``worn``: tenths of the life of an eMMC that are used up (JEDEC eMMC 5.0,
    DEVICE_LIFE_TIME_EST). ``disk_errors``: how often the data folder's file system was found inconsistent since it was
    last checked (Documentation/ABI/testing/sysfs-fs-ext4). ``usb_cut``: how often USB ports were switched off since the
    boot because too much current was drawn (Documentation/ABI/testing/sysfs-bus-usb, over_current_count).
    """

    memory_free: float | None = None
    stalled: float | None = None
    frozen: float | None = None
    temperature: float | None = None
    under_voltage: bool | None = None
    under_voltage_before: bool | None = None
    throttled: bool | None = None
    read_only: bool = False
    worn: int | None = None
    disk_errors: int | None = None
    usb_cut: int | None = None


def look(data: Path, root: Path = Path("/")) -> Strain:
    """The machine as it is now, and the disk of a data folder. About a millisecond."""
    pressure = _pressure(root / "proc/pressure/memory")
    flags = _throttled(root / "sys")
    alarm = _voltage_alarm(root / "sys/class/hwmon")
    return Strain(
        memory_free=_memory_free(root / "proc/meminfo"),
        stalled=pressure.get("some"),
        frozen=pressure.get("full"),
        temperature=max(_temperatures(root / "sys/class/thermal"), default=None),
        under_voltage=alarm if flags is None else bool(flags & _POWER) or bool(alarm),
        under_voltage_before=None if flags is None else bool(flags >> _SINCE_BOOT & _POWER),
        throttled=None if flags is None else bool(flags & (_CAPPED | _THROTTLED | _HOT)),
        read_only=_read_only(data),
        worn=_worn(data, root / "sys/dev/block"),
        disk_errors=_disk_errors(data, root / "sys"),
        usb_cut=_usb_cut(root / "sys/bus/usb/devices"),
    )


def view(strain: Strain) -> dict[str, Any]:
    """What is known of it, for people and programs."""
    found = {name: getattr(strain, name) for name in strain.__struct_fields__}
    return {name: value for name, value in found.items() if value is not None}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _memory_free(path: Path) -> float | None:
    fields = {line.split(":")[0]: line.split()[1] for line in _read(path).splitlines() if ":" in line}
    total, free = fields.get("MemTotal", ""), fields.get("MemAvailable", "")
    return int(free) / int(total) if total.isdigit() and free.isdigit() and int(total) else None


def _pressure(path: Path) -> dict[str, float]:
    found = {}
    for line in _read(path).splitlines():
        kind, *fields = line.split()
        for field in fields:
            name, _, value = field.partition("=")
            if name == "avg60":
                found[kind] = float(value) / 100
    return found


def _temperatures(folder: Path) -> Iterator[float]:
    for zone in sorted(folder.glob("thermal_zone*/temp")):
        text = _read(zone)
        if text.lstrip("-").isdigit():
            yield int(text) / 1000


def _throttled(sys: Path) -> int | None:
    try:
        return int(_read(sys / _THROTTLE_FILE), 16)
    except ValueError:
        return None


def _voltage_alarm(folder: Path) -> bool | None:
    """The Raspberry Pi's `rpi_volt`, which newer kernels have instead."""
    for name in folder.glob("hwmon*/name"):
        if _read(name) == "rpi_volt":
            return _read(name.with_name("in0_lcrit_alarm")) == "1"
    return None


def _read_only(data: Path) -> bool:
    try:
        return bool(os.statvfs(data).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _device(data: Path, block: Path) -> Path:
    """The disk's or partition's folder in ``/sys``; one that is not there for what lies on no block device."""
    try:
        number = data.stat().st_dev
    except OSError:
        return block / "none"
    return (block / f"{os.major(number)}:{os.minor(number)}").resolve()


def _disk_errors(data: Path, sys: Path) -> int | None:
    text = _read(sys / "fs/ext4" / _device(data, sys / "dev/block").name / "errors_count")
    return int(text) if text.isdigit() else None


def _usb_cut(devices: Path) -> int | None:
    # A hub is a device, its interface `…:1.0` has the ports; `usb1` and the like are the machine's own.
    counts = [_read(file) for file in devices.glob("*/*-port*/over_current_count")]
    return sum(int(text) for text in counts if text.isdigit()) if counts else None


def _worn(data: Path, block: Path) -> int | None:
    device = _device(data, block)
    for folder in (device, device.parent):  # a partition lies within its disk
        words = _read(folder / "device/life_time").split()
        if words:
            return max(int(word, 16) for word in words)
    return None
