"""The system driver: this machine's real files, and those of a Pi written down in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drivers.base import DriverError, decode
from drivers.support.readings import Readings
from drivers.system import Limit, Monitor, System, SystemConfig
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard


@pytest.fixture
def driver(host: FakeHost) -> System:
    return System(SystemConfig(interval=0.05), host)


class TestContract(Contract):
    pass


def test_this_machine_is_read(host: FakeHost, heard: Heard) -> None:
    driver = System(
        SystemConfig(metrics=("cpu", "load", "memory", "disk", "network_in"), readings=0.05, interval=0.05), host
    )
    driver.open()
    stop = driver.events(heard)
    heard.until(lambda each: each.source == "cpu", 2)
    stop()
    driver.close()
    observed(heard, host)
    for each in heard.all:
        assert each.kind == "reading"
        assert each.value >= 0
        assert each.source in ("load", "network_in") or each.value <= 100


class Machine:
    """A machine's files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: object) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def throttled(self, word: int) -> None:
        self.write("sys/devices/platform/soc/soc:firmware/get_throttled", f"{word:x}")

    def temperature(self, degrees: float) -> None:
        self.write("sys/class/thermal/thermal_zone0/temp", int(degrees * 1000))


@pytest.fixture
def pi(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "pi")
    machine.temperature(48.312)
    machine.write("sys/class/thermal/thermal_zone1/temp", -274000)
    machine.throttled(0x50000)
    machine.write("sys/block/mmcblk0/device/life_time", "0x02 0x03")
    machine.write("sys/class/net/lo/operstate", "unknown")
    machine.write("sys/class/net/eth0/operstate", "up")
    machine.write("sys/class/net/wlan0/operstate", "down")
    machine.write("sys/class/power_supply/ups/type", "UPS")
    machine.write("sys/class/power_supply/ups/capacity", 87)
    machine.write("sys/class/power_supply/ac/type", "Mains")
    machine.write("sys/class/power_supply/ac/online", 1)
    machine.write("proc/meminfo", "MemTotal:  4000 kB\nMemFree: 10 kB\nMemAvailable:  1000 kB")
    machine.write("proc/loadavg", "0.52 0.58 0.59 1/467 12345")
    return machine


def readings(machine: Machine, host: FakeHost, interface: str = "") -> Readings:
    return Readings(machine.root, "/", interface, host.monotonic)


def test_a_pis_files_are_understood(pi: Machine, host: FakeHost) -> None:
    found = readings(pi, host)
    expected = {
        "temperature": 48.31,
        "undervoltage": False,
        "throttled": False,
        "disk_wear": 30.0,
        "link": True,
        "battery": 87.0,
        "mains": True,
        "memory": 75.0,
        "load": 0.52,
    }
    assert {metric: found.read(metric) for metric in expected} == expected
    assert readings(pi, host, "wlan0").read("link") is False
    assert readings(pi, host, "eth9").read("link") is None
    pi.throttled(0x50005)
    assert (found.read("undervoltage"), found.read("throttled")) == (True, True)


def test_under_voltage_is_known_on_other_kernels_too(pi: Machine, host: FakeHost) -> None:
    (pi.root / "sys/devices/platform/soc/soc:firmware/get_throttled").unlink()
    pi.write("sys/class/hwmon/hwmon1/name", "rpi_volt")
    pi.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1")
    found = readings(pi, host)
    assert (found.read("undervoltage"), found.read("throttled")) == (True, None)


def test_rates_are_of_the_time_between_two_readings(pi: Machine, host: FakeHost) -> None:
    host.time = 100.0
    found = readings(pi, host)
    head = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n"
    pi.write("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0")
    pi.write("proc/net/dev", f"{head}    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 1000 0 0 0 0 0 0 0 500 0")
    assert (found.read("cpu"), found.read("network_in"), found.read("network_out")) == (None, None, None)
    host.time = 110.0
    pi.write("proc/stat", "cpu  150 0 150 1600 100 0 0 0 0 0")
    pi.write("proc/net/dev", f"{head}    lo: 99999 0 0 0 0 0 0 0 9 0\n  eth0: 51000 0 0 0 0 0 0 0 10500 0")
    assert (found.read("cpu"), found.read("network_in"), found.read("network_out")) == (10.0, 5.0, 1.0)


@pytest.mark.parametrize("text", ["", "garbage", "0x"])
def test_files_that_make_no_sense_are_no_reading(pi: Machine, host: FakeHost, text: str) -> None:
    for name in (
        "sys/class/thermal/thermal_zone0/temp",
        "sys/block/mmcblk0/device/life_time",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "proc/meminfo",
        "proc/loadavg",
        "proc/stat",
    ):
        pi.write(name, text)
    found = readings(pi, host)
    for metric in ("temperature", "disk_wear", "throttled", "memory", "load", "cpu"):
        assert found.read(metric) is None, metric


def monitor(pi: Machine, host: FakeHost, heard: Heard, **config: Any) -> Monitor:
    host.time = 1000.0
    return Monitor(SystemConfig(**config), host, readings(pi, host), heard)


def test_a_limit_is_told_after_its_time_and_again_when_it_is_over(pi: Machine, host: FakeHost, heard: Heard) -> None:
    limit = Limit(metric="temperature", above=75, hysteresis=5, hold=30)
    watch = monitor(pi, host, heard, metrics=("temperature",), limits=(limit,))
    for degrees in (80, 80, 80, 80, 74, 71, 69, 50):
        pi.temperature(degrees)
        watch.look()
        host.time = (host.time or 0) + 10
    assert [(each.kind, each.value, each.at) for each in heard.all] == [
        ("high", 80.0, 1030.0),
        ("normal", 69.0, 1060.0),
    ]
    assert heard.all[0].attrs == {"above": 75, "unit": "°C"}


def test_under_voltage_is_told_when_it_comes_and_goes(pi: Machine, host: FakeHost, heard: Heard) -> None:
    watch = monitor(pi, host, heard, metrics=("undervoltage",))
    for word in (0x50000, 0x50001, 0x50001, 0x50000):
        pi.throttled(word)
        watch.look()
    assert [(each.kind, each.value) for each in heard.all] == [
        ("initial", False),
        ("changed", True),
        ("changed", False),
    ]


def test_a_battery_that_is_taken_out_is_a_gap(pi: Machine, host: FakeHost, heard: Heard) -> None:
    watch = monitor(pi, host, heard, metrics=("battery",))
    watch.look()
    (pi.root / "sys/class/power_supply/ups/capacity").unlink()
    for _ in range(3):
        host.time = (host.time or 0) + 10
        watch.look()
    pi.write("sys/class/power_supply/ups/capacity", 50)
    watch.look()
    assert [(each.kind, each.value) for each in heard.all] == [("lost", "it does not answer"), ("gap", 20.0)]


class Pi(System):
    """A System whose machine is a folder."""


def test_what_a_machine_does_not_tell_is_refused(host: FakeHost, tmp_path: Path) -> None:
    Pi.root = tmp_path
    with pytest.raises(DriverError, match="does not tell its battery, throttled"):
        Pi(SystemConfig(metrics=("battery", "throttled")), host).open()


@pytest.mark.parametrize(
    ("limit", "says"), [({"metric": "load", "above": 1}, "not among the metrics"), ({"metric": "cpu"}, "neither above")]
)
def test_limits_that_make_no_sense_are_refused(limit: dict[str, Any], says: str, host: FakeHost) -> None:
    config = decode(SystemConfig, {"metrics": ["cpu"], "limits": [limit]})
    with pytest.raises(DriverError, match=says):
        System(config, host).open()
