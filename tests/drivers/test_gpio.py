"""What the gpio driver says where there is nothing to drive. The pins themselves: tests/hardware/test_gpio_sim.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.base import DriverError, decode
from drivers.gpio import KERNEL_BUFFER, Edges, Gpio, GpioConfig
from drivers.support.gpiochips import Edge, Line
from tests.drivers.host import FakeHost


class Pinless(Gpio):
    """A machine whose /dev is an empty folder."""


@pytest.fixture
def pinless(host: FakeHost, tmp_path: Path) -> Gpio:
    Pinless.folder = tmp_path
    return Pinless(GpioConfig(line="GPIO17"), host)


def test_a_machine_without_pins_says_so(pinless: Gpio) -> None:
    assert "no GPIO pins" in pinless.unavailable()
    with pytest.raises(DriverError, match=r"no GPIO pins .*use the driver 'sim'"):
        pinless.open()
    assert pinless.claims() == ("gpio:*/GPIO17",)
    pinless.safe_state()
    pinless.close()


def test_a_device_that_is_no_chip_is_told(pinless: Gpio, tmp_path: Path) -> None:
    (tmp_path / "gpiochip0").write_text("")
    with pytest.raises(DriverError, match="gpiochip0 is not a GPIO chip"):
        pinless.open()


@pytest.mark.parametrize("raw", [{}, {"line": -1}, {"line": ""}, {"line": 1, "direction": "sideways"}, {"line": True}])
def test_wrong_configs_name_the_field(raw: dict[str, object]) -> None:
    with pytest.raises(DriverError, match=r"line|direction"):
        decode(GpioConfig, raw)


class Chattering(Line):
    """A line with so many edges a second; the kernel keeps the newest and drops the rest."""

    def __init__(self, host: FakeHost, rate: int) -> None:
        self._host, self._rate, self._taken = host, rate, 0
        self._began = host.monotonic()

    @property
    def total(self) -> int:
        return round((self._host.monotonic() - self._began) * self._rate)

    def waiting(self) -> bool:
        return self.total > self._taken

    def edges(self, most: int) -> list[Edge]:
        first = max(self._taken, self.total - most)
        self._taken = self.total
        return [Edge(number % 2 == 1, 0, number) for number in range(first + 1, self.total + 1)]


def test_a_pin_that_chatters_at_10_khz_is_counted_exactly_and_told_rarely(host: FakeHost) -> None:
    host.time = 1000.0
    edges = Edges(GpioConfig(line=0, max_rate=100), host)
    line = Chattering(host, 10_000)
    told, left_out, reports, looks = 0, 0, 0, 0
    for _ in range(100):
        host.time += 0.1
        looks += 1
        if edges.chattering:
            edges.skip(line)
        else:
            told += len(edges.read(line))
        if edges.over:
            left_out += edges.report()
            reports += 1
    assert told < 1100
    assert reports <= 10
    assert told + left_out + edges.report() == line.total == 100_000
    assert line.total / looks > KERNEL_BUFFER
