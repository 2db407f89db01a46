"""Serial ports by the identity of their USB device, from sysfs: the same device keeps it at every socket and name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from drivers.base import DriverError

_IDENTITY = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}(:[^:/]*(:[0-9]+)?)?")


class UsbPort(Struct, frozen=True):
    """A serial port of a USB device. ``interface`` tells the ports of one adapter apart."""

    device: str
    vendor: str
    product: str
    serial: str
    interface: int

    @property
    def identity(self) -> str:
        return f"{self.vendor}:{self.product}:{self.serial}:{self.interface}"


def is_identity(port: str) -> bool:
    return bool(_IDENTITY.fullmatch(port))


def ports(root: Path) -> list[UsbPort]:
    """All that are plugged in; ``root`` is ``/``."""
    found = (_port(root, tty) for tty in sorted((root / "sys/class/tty").glob("tty[A-Z]*")))
    return [port for port in found if port is not None]


def locate(root: Path, identity: str) -> str:
    """The device file of ``vendor:product[:serial[:interface]]``. Raises ``DriverError``."""
    wanted = identity.lower().split(":")
    there = ports(root)
    fitting = [port for port in there if port.identity.lower().split(":")[: len(wanted)] == wanted]
    if len(fitting) == 1:
        return fitting[0].device
    shown = ", ".join(f"{port.identity} ({port.device})" for port in fitting or there) or "none"
    if fitting:
        raise DriverError(f"several ports are {identity}: {shown}; write the one that is meant", retryable=True)
    raise DriverError(f"no USB serial port {identity} is plugged in; there are: {shown}")


def _port(root: Path, tty: Path) -> UsbPort | None:
    device = (tty / "device").resolve()
    interface = 0
    for folder in _upward(device):
        if (number := _text(folder / "bInterfaceNumber")) and not interface:
            interface = int(number, 16)
        if vendor := _text(folder / "idVendor"):
            return UsbPort(
                str(root / "dev" / tty.name),
                vendor,
                _text(folder / "idProduct"),
                _text(folder / "serial").replace(":", "_").replace("/", "_"),
                interface,
            )
    return None


def _upward(device: Path) -> Iterator[Path]:
    """The device's folder and those above it; the USB device is a few steps up."""
    yield device
    yield from list(device.parents)[:6]


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
