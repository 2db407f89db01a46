"""Simulated hardware behaves as the real thing would."""

from __future__ import annotations

import pytest

from drivers.base import DriverError
from drivers.sim import Sim, SimConfig
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard


@pytest.fixture
def driver(host: FakeHost) -> Sim:
    return Sim(SimConfig(interval=0.02), host)


class TestContract(Contract):
    pass


def test_the_temperature_swings_with_the_clock(host: FakeHost, heard: Heard) -> None:
    sim = Sim(SimConfig(low=10, high=20, period=400), host)
    sim.open()
    told = []
    for moment in (0.0, 100.0, 200.0, 300.0):
        host.time = moment
        heard.all.clear()
        stop = sim.events(heard)
        told.append(heard.until(lambda each: each.source == "temperature")[0])
        stop()
    sim.close()
    assert [each.value for each in told] == [15.0, 20.0, 15.0, 10.0]
    assert told[1].at == 100.0
    assert told[1].attrs == {"unit": "°C"}


def test_readings_keep_coming(driver: Sim, host: FakeHost, heard: Heard) -> None:
    driver.open()
    stop = driver.events(heard)
    heard.until(lambda each: each.source == "temperature", 5)
    stop()
    driver.close()
    observed(heard, host)


def test_a_held_temperature_stays_until_it_is_let_go(driver: Sim, heard: Heard) -> None:
    driver.open()
    stop = driver.events(heard)
    assert driver.write({"entity": "temperature", "value": 99.5}) == {"entity": "temperature", "value": 99.5}
    heard.until(lambda each: each.value == 99.5, 3)
    driver.write({"entity": "temperature", "value": None})
    heard.until(lambda each: each.source == "temperature" and each.value < 30)
    stop()
    driver.close()


def test_the_lamp_tells_only_changes_and_has_a_safe_state(host: FakeHost, heard: Heard) -> None:
    sim = Sim(SimConfig(interval=60, initial=True, safe=False), host)
    sim.open()
    stop = sim.events(heard)
    heard.until(lambda each: each.source == "lamp")
    sim.write({"entity": "lamp", "value": True})
    sim.safe_state()
    sim.safe_state()
    stop()
    sim.close()
    assert [each.value for each in heard.all if each.source == "lamp"] == [True, False]


def test_the_button_is_pressed_by_command_and_by_itself(host: FakeHost, heard: Heard) -> None:
    sim = Sim(SimConfig(interval=60, press_every=0.01), host)
    sim.open()
    stop = sim.events(heard)
    heard.kind("pressed", 3)
    stop()
    sim.close()
    quiet = Sim(SimConfig(interval=60), host)
    quiet.open()
    heard.all.clear()
    stop = quiet.events(heard)
    quiet.write({"entity": "button"})
    stop()
    quiet.close()
    assert [each.source for each in heard.all if each.kind == "pressed"] == ["button"]


@pytest.mark.parametrize("command", [{"entity": "lamp", "value": 3}, {"entity": "oven"}, {"entity": "lamp", "v": True}])
def test_a_wrong_command_names_its_fault(driver: Sim, command: dict[str, object]) -> None:
    driver.open()
    with pytest.raises(DriverError, match=r"^(value|entity|v): ") as caught:
        driver.write(command)
    assert not caught.value.retryable


def test_boards_are_told_apart_by_their_names(host: FakeHost) -> None:
    assert Sim(SimConfig(name="a"), host).claims() != Sim(SimConfig(name="b"), host).claims()
