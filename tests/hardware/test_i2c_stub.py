"""The i2c driver against the kernel's stub bus (i2c-stub, a chip at 0x48). ``scripts/test --gpio`` runs this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.base import DriverError
from drivers.i2c import I2c, I2cConfig
from tests.drivers.contract import Contract
from tests.drivers.host import FakeHost, Heard


def bus() -> int | None:
    for name in Path("/sys/class/i2c-dev").glob("i2c-*/name"):
        if "stub" in name.read_text():
            return int(name.parent.name.removeprefix("i2c-"))
    return None


if bus() is None:
    pytest.skip("no i2c-stub in this kernel: scripts/test --gpio", allow_module_level=True)


def chip(host: FakeHost, address: int = 0x48) -> I2c:
    return I2c(I2cConfig(bus=bus() or 0, address=address, interval=0.02, register=16, format="s16"), host)


@pytest.fixture
def driver(host: FakeHost) -> Iterator[I2c]:
    made = chip(host)
    yield made
    made.close()


class TestContract(Contract):
    pass


def test_registers_are_written_read_and_watched(driver: I2c, heard: Heard) -> None:
    driver.open()
    assert driver.write({"register": 16, "write": "00 01 02 03"}) == {"written": 4}
    assert driver.write({"register": 17, "read": 3}) == {"bytes": "010203"}
    stop = driver.events(heard)
    assert heard.one("initial").value == 1
    driver.write({"register": 16, "write": "ff fe"})
    assert heard.one("changed").value == -2
    stop()


def test_single_bytes_without_a_register(driver: I2c) -> None:
    driver.open()
    driver.write({"register": 32, "write": "aa"})
    driver.write({"write": "20"})
    assert driver.write({"read": 1}) == {"bytes": "aa"}


def test_a_chip_that_is_not_there_is_told(host: FakeHost) -> None:
    with pytest.raises(DriverError, match=r"the chip 0x50 on I2C bus .* does not answer: check its wires") as caught:
        chip(host, 0x50).open()
    assert caught.value.retryable


def test_what_the_bus_cannot_do_is_told(driver: I2c) -> None:
    driver.open()
    with pytest.raises(DriverError, match="not supported") as caught:
        driver.write({"read": 4})
    assert not caught.value.retryable
