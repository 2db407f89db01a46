"""The onewire driver on files as the kernel's w1_therm driver shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.base import DriverError
from drivers.onewire import Bus, Onewire, OnewireConfig
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard

SENSOR = "28-0316a2794fff"
OTHER = "10-000801b5a7c6"


class Wires:
    """The bus as a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._devices = root / "sys/bus/w1/devices"
        (self._devices / "w1_bus_master1").mkdir(parents=True)

    def show(self, sensor: str, thousandths: int, verdict: str = "YES") -> None:
        folder = self._devices / sensor
        folder.mkdir(exist_ok=True)
        head = "72 01 4b 46 7f ff 0e 10 57"
        (folder / "w1_slave").write_text(f"{head} : crc=57 {verdict}\n{head} t={thousandths}\n")

    def pull(self, sensor: str) -> None:
        (self._devices / sensor / "w1_slave").unlink()
        (self._devices / sensor).rmdir()


@pytest.fixture
def wires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wires:
    made = Wires(tmp_path / "pi")
    made.show(SENSOR, 23125)
    monkeypatch.setattr(Onewire, "root", made.root)
    return made


@pytest.fixture
def driver(wires: Wires, host: FakeHost) -> Onewire:
    return Onewire(OnewireConfig(interval=0.05), host)


class TestContract(Contract):
    pass


def test_temperatures_are_told_when_they_change(driver: Onewire, wires: Wires, host: FakeHost, heard: Heard) -> None:
    driver.open()
    assert [entity.id for entity in driver.entities()] == [SENSOR]
    stop = driver.events(heard)
    assert heard.one("initial").value == 23.125
    wires.show(SENSOR, 23187)
    wires.show(OTHER, -1500)
    heard.until(lambda each: each.source == OTHER)
    wires.show(SENSOR, 23250)
    changed = heard.one("changed")
    stop()
    driver.close()
    assert (changed.source, changed.value, changed.attrs) == (SENSOR, 23.25, {"unit": "°C"})
    assert heard.until(lambda each: each.source == OTHER)[0].value == -1.5
    observed(heard, host)


@pytest.fixture
def bus(wires: Wires, host: FakeHost, heard: Heard) -> Bus:
    host.time = 1000.0
    return Bus(OnewireConfig(every=60), host, wires.root, heard)


def test_wrong_answers_are_no_temperatures(bus: Bus, wires: Wires, host: FakeHost, heard: Heard) -> None:
    bus.look(SENSOR)
    for thousandths, verdict in ((99000, "NO"), (85000, "YES"), (127937, "YES"), (-200000, "YES")):
        wires.show(SENSOR, thousandths, verdict)
        host.time = (host.time or 0) + 10
        bus.look(SENSOR)
    wires.show(SENSOR, 24000)
    host.time = (host.time or 0) + 10
    bus.look(SENSOR)
    assert [(each.kind, each.value) for each in heard.all] == [
        ("initial", 23.125),
        ("lost", "no valid answer"),
        ("gap", 20.0),
        ("changed", 24.0),
    ]


def test_one_wrong_answer_is_overlooked(bus: Bus, wires: Wires, heard: Heard) -> None:
    for verdict in ("YES", "NO", "NO", "YES"):
        wires.show(SENSOR, 23125, verdict)
        bus.look(SENSOR)
    assert [each.kind for each in heard.all] == ["initial"]


def test_a_sensor_that_is_pulled_is_missed(bus: Bus, wires: Wires, heard: Heard) -> None:
    for _ in range(2):
        for sensor in bus.sensors():
            bus.look(sensor)
    wires.pull(SENSOR)
    for _ in range(4):
        for sensor in bus.sensors():
            bus.look(sensor)
    assert [each.kind for each in heard.all] == ["initial", "lost"]


def test_a_temperature_that_stays_is_told_now_and_then(bus: Bus, host: FakeHost, heard: Heard) -> None:
    for _ in range(13):
        bus.look(SENSOR)
        host.time = (host.time or 0) + 10
    assert [(each.kind, each.at) for each in heard.all] == [
        ("initial", 1000.0),
        ("reading", 1060.0),
        ("reading", 1120.0),
    ]


def test_what_is_missing_is_told(wires: Wires, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DriverError, match=rf"no sensor 28-x on the bus; there are: {SENSOR}"):
        Onewire(OnewireConfig(sensors=("28-x",)), host).open()
    monkeypatch.setattr(Onewire, "root", tmp_path / "nothing")
    assert "dtoverlay=w1-gpio" in Onewire.unavailable()
    with pytest.raises(DriverError, match="no 1-Wire bus"):
        Onewire(OnewireConfig(), host).open()
