"""The i2c driver on a chip kept in memory; on a real bus of the kernel: tests/hardware/test_i2c_stub.py."""

from __future__ import annotations

from typing import Any

import pytest

from drivers.base import DriverError, decode
from drivers.i2c import I2c, I2cConfig, SafeWrite, value_of
from drivers.support.i2cbus import Chip
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard


class MemoryChip(Chip):
    """256 registers; without a register the last one that was named."""

    def __init__(self) -> None:
        self.registers = bytearray(256)
        self.well = True
        self._at = 0
        self._is_open = False

    def open(self) -> None:
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def _check(self) -> None:
        if not self._is_open or not self.well:
            raise DriverError("the chip does not answer")

    def read(self, register: int | None, length: int) -> bytes:
        self._check()
        self._at = self._at if register is None else register
        return bytes(self.registers[self._at : self._at + length])

    def write(self, register: int | None, data: bytes) -> None:
        self._check()
        self._at = self._at if register is None else register
        self.registers[self._at : self._at + len(data)] = data


class Wired(I2c):
    """A machine with that chip on its bus."""

    def __init__(self, config: I2cConfig, host: FakeHost) -> None:
        super().__init__(config, host)
        self.memory = MemoryChip()

    def chip(self) -> Chip:
        return self.memory


@pytest.fixture
def wired(host: FakeHost) -> Wired:
    return Wired(I2cConfig(address=0x48, interval=0.01, register=0, format="s16", scale=1 / 256, unit="°C"), host)


class TestContract(Contract):
    @pytest.fixture
    def driver(self, wired: Wired, monkeypatch: pytest.MonkeyPatch) -> I2c:
        """The driver itself, with the chip put in."""
        driver = I2c(wired.config, wired.host)
        monkeypatch.setattr(driver, "chip", wired.chip)
        return driver


def test_a_register_is_told_when_it_changes(wired: Wired, host: FakeHost, heard: Heard) -> None:
    wired.memory.registers[0:2] = b"\x19\x80"
    wired.open()
    stop = wired.events(heard)
    assert heard.one("initial").value == 25.5
    wired.write({"register": 0, "write": "ff 80"})
    changed = heard.one("changed")
    stop()
    wired.close()
    assert (changed.value, changed.attrs, changed.source) == (-0.5, {"bytes": "ff80", "unit": "°C"}, "i2c-1/0x48")
    observed(heard, host)


def test_changes_smaller_than_asked_for_are_not_told(host: FakeHost, heard: Heard) -> None:
    driver = Wired(I2cConfig(address=0x48, interval=0.01, register=7, change=10), host)
    driver.open()
    stop = driver.events(heard)
    heard.one("initial")
    for value in (9, 5, 10, 15, 0):
        driver.write({"register": 7, "write": f"{value:02x}"})
        if value in (10, 0):
            heard.until(lambda each, value=value: each.kind == "changed" and each.value == value)  # type: ignore[misc]
    stop()
    driver.close()
    assert [each.value for each in heard.all] == [0, 10, 0]


def test_a_chip_that_stops_answering_is_lost_and_comes_back(wired: Wired, heard: Heard) -> None:
    wired.open()
    stop = wired.events(heard)
    heard.one("initial")
    wired.memory.well = False
    heard.one("lost")
    wired.memory.well = True
    assert heard.one("gap").value >= 0
    stop()
    wired.close()
    assert [each.kind for each in heard.all] == ["initial", "lost", "gap"]


def test_commands_read_and_write(wired: Wired) -> None:
    wired.open()
    assert wired.write({"register": 16, "write": "01 02 03"}) == {"written": 3}
    assert wired.write({"register": 17, "read": 2}) == {"bytes": "0203"}
    assert wired.write({"read": 1}) == {"bytes": "02"}
    wired.close()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ({"register": 1}, "either"),
        ({"read": 1, "write": "00"}, "either"),
        ({"write": "xyz"}, "hex digits"),
        ({"write": "00" * 33}, "1 to 32 bytes"),
        ({"register": 256, "read": 1}, "256|255"),
        ({"read": 33}, "32"),
    ],
)
def test_wrong_commands_are_refused(wired: Wired, command: dict[str, Any], says: str) -> None:
    wired.open()
    with pytest.raises(DriverError, match=says) as caught:
        wired.write(command)
    assert not caught.value.retryable
    wired.close()


def test_the_safe_state_is_written(host: FakeHost) -> None:
    safe = (SafeWrite(register=0x12, write="00"), SafeWrite(register=0x13, write="ff"))
    driver = Wired(I2cConfig(address=0x20, safe=safe), host)
    driver.open()
    driver.write({"register": 0x12, "write": "aa bb"})
    driver.safe_state()
    assert driver.memory.registers[0x12:0x14] == b"\x00\xff"
    driver.close()


@pytest.mark.parametrize(
    ("form", "raw", "value"),
    [
        ("u8", "ff", 255),
        ("s8", "ff", -1),
        ("u16", "0102", 258),
        ("u16-little", "0102", 513),
        ("s16-little", "feff", -2),
        ("u24", "010000", 65536),
        ("s32", "fffffffe", -2),
        ("bytes", "00ff", "00ff"),
    ],
)
def test_bytes_become_numbers(form: str, raw: str, value: Any) -> None:
    config = decode(I2cConfig, {"address": 0x40, "format": form})
    assert value_of(bytes.fromhex(raw), config) == value


def test_a_bus_that_is_not_there_is_told(host: FakeHost) -> None:
    with pytest.raises(DriverError, match=r"no I2C bus 250 \(there are: .*raspi-config"):
        I2c(I2cConfig(bus=250, address=0x48), host).open()
