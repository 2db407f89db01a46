"""A chip on an I2C bus, through /dev/i2c-N. The only importer of smbus2."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from drivers.base import DriverError

if TYPE_CHECKING:
    from smbus2 import SMBus

#: What SMBus moves at once.
MOST = 32


def missing() -> str:
    try:
        import smbus2  # noqa: F401
    except ImportError:
        return "I2C needs the library smbus2: pip install smbus2"
    return ""


class Chip:
    """Raises ``DriverError``. Not for two threads at once."""

    def __init__(self, bus: int, address: int) -> None:
        self._name = f"the chip 0x{address:02x} on I2C bus {bus}"
        self._number = bus
        self._address = address
        self._bus: SMBus | None = None

    def open(self) -> None:
        if reason := missing():
            raise DriverError(reason, retryable=False)
        from smbus2 import SMBus

        try:
            self._bus = SMBus(self._number)
        except OSError as exc:
            raise self._no_bus(exc) from exc

    def close(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    def read(self, register: int | None, length: int) -> bytes:
        """Bytes from a register on, or just the next ones."""
        from smbus2 import i2c_msg

        bus = self._opened()
        try:
            if register is not None:
                return bytes(bus.read_i2c_block_data(self._address, register, length))
            if length == 1:
                return bytes([bus.read_byte(self._address)])
            message = i2c_msg.read(self._address, length)
            bus.i2c_rdwr(message)
            return bytes(message)
        except OSError as exc:
            raise self._refusal(exc) from exc

    def write(self, register: int | None, data: bytes) -> None:
        from smbus2 import i2c_msg

        bus = self._opened()
        try:
            if register is not None:
                bus.write_i2c_block_data(self._address, register, data)
            elif len(data) == 1:
                bus.write_byte(self._address, data[0])
            else:
                bus.i2c_rdwr(i2c_msg.write(self._address, data))
        except OSError as exc:
            raise self._refusal(exc) from exc

    def _opened(self) -> SMBus:
        if self._bus is None:
            raise DriverError(f"{self._name} is not open")
        return self._bus

    def _no_bus(self, exc: OSError) -> DriverError:
        if exc.errno == errno.EACCES:
            return DriverError(
                f"/dev/i2c-{self._number} may not be opened: add the account to the group that owns it "
                "(often: sudo usermod -aG i2c USER), then start the agent again"
            )
        there = ", ".join(sorted(path.name for path in Path("/dev").glob("i2c-*"))) or "none"
        return DriverError(
            f"there is no I2C bus {self._number} (there are: {there}); on a Raspberry Pi: sudo raspi-config, "
            "Interface Options, I2C"
        )

    def _refusal(self, exc: OSError) -> DriverError:
        if exc.errno in (errno.EREMOTEIO, errno.ENXIO, errno.ENODEV, errno.EIO, errno.ETIMEDOUT):
            return DriverError(f"{self._name} does not answer: check its wires, address and power")
        if exc.errno == errno.EBUSY:
            return DriverError(f"{self._name} is driven by the kernel itself: read it from /sys instead")
        return DriverError(f"{self._name}: {exc.strerror}", retryable=exc.errno != errno.EOPNOTSUPP)
