"""The gpio driver against a real kernel's GPIO chip. ``scripts/test --gpio`` runs this where it is skipped."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from drivers.base import DriverError
from drivers.gpio import Gpio, GpioConfig
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard
from tests.hardware import simulator

if not simulator.present():
    pytest.skip("no gpio-sim in this kernel: scripts/test --gpio", allow_module_level=True)


@pytest.fixture
def chip() -> Iterator[simulator.Chip]:
    made = simulator.Chip("flowork", names=("DOOR", "LAMP"), label="flowork-sim")
    yield made
    made.remove()


@pytest.fixture
def driver(host: FakeHost, chip: simulator.Chip) -> Iterator[Gpio]:
    made = Gpio(GpioConfig(line=0, chip=chip.name), host)
    yield made
    made.close()


class TestInputContract(Contract):
    pass


class TestOutputContract(Contract):
    @pytest.fixture
    def driver(self, host: FakeHost, chip: simulator.Chip) -> Gpio:
        return Gpio(GpioConfig(line=1, chip=chip.name, direction="output"), host)


def pin(host: FakeHost, **config: Any) -> Gpio:
    return Gpio(GpioConfig(**config), host)


# --- inputs ---


def test_edges_are_told_with_the_kernels_time(driver: Gpio, chip: simulator.Chip, host: FakeHost, heard: Heard) -> None:
    driver.open()
    stop = driver.events(heard)
    assert heard.one("initial").value is False
    before = time.time()
    chip.pull(0, True)
    first = heard.one("changed")
    chip.pull(0, False)
    second = heard.kind("changed", 2)[1]
    stop()
    assert (first.value, first.attrs["edge"], first.attrs["line"]) == (True, "rising", "DOOR")
    assert (second.value, second.attrs["edge"]) == (False, "falling")
    assert first.source == f"{chip.name}/0"
    assert before - 0.01 <= first.at < second.at <= time.time() + 0.01
    observed(heard, host)


@pytest.mark.parametrize("edge", ["rising", "falling"])
def test_only_the_edges_asked_for(edge: Any, chip: simulator.Chip, host: FakeHost, heard: Heard) -> None:
    driver = pin(host, line="DOOR", edge=edge)
    driver.open()
    stop = driver.events(heard)
    heard.kind("initial")
    for count in (1, 2):
        # The simulator folds edges into one that come before the last was taken.
        chip.pull(0, True)
        if edge == "rising":
            heard.kind("changed", count)
        chip.pull(0, False)
        told = heard.kind("changed", count)
    stop()
    driver.close()
    assert [each.attrs["edge"] for each in told] == [edge, edge]


def test_active_low_turns_the_meaning_round(chip: simulator.Chip, host: FakeHost, heard: Heard) -> None:
    driver = pin(host, line=0, chip=chip.name, active_low=True)
    driver.open()
    stop = driver.events(heard)
    assert heard.one("initial").value is True
    chip.pull(0, True)
    assert heard.one("changed").value is False
    stop()
    driver.close()


def test_bias_is_the_kernels(chip: simulator.Chip, host: FakeHost) -> None:
    driver = pin(host, line=0, chip=chip.name, bias="pull-up")
    driver.open()
    assert driver.write({"read": True}) == {"value": True}
    driver.close()
    assert chip.level(0) == 1


def test_debounce_swallows_what_is_short(chip: simulator.Chip, host: FakeHost, heard: Heard) -> None:
    driver = pin(host, line=0, chip=chip.name, debounce=0.05)
    driver.open()
    stop = driver.events(heard)
    heard.kind("initial")
    for _ in range(10):
        chip.pull(0, True)
        chip.pull(0, False)
    chip.pull(0, True)
    heard.kind("changed")
    stop()
    driver.close()
    assert [each.value for each in heard.all if each.kind == "changed"] == [True]


def test_a_chattering_pin_is_bounded_and_ends_in_the_truth(chip: simulator.Chip, host: FakeHost, heard: Heard) -> None:
    driver = pin(host, line=0, chip=chip.name, max_rate=20)
    driver.open()
    stop = driver.events(heard)
    heard.kind("initial")
    count, began = 0, time.monotonic()
    while time.monotonic() - began < 2:
        chip.pull(0, True)
        chip.pull(0, False)
        count += 2
    chip.pull(0, True)
    count += 1
    took = time.monotonic() - began

    def left_out() -> int:
        return sum(each.value for each in heard.all if each.kind == "overflow")

    def edges() -> int:
        return sum(1 for each in heard.all if each.kind == "changed" and "edge" in each.attrs)

    def ends_in_the_truth(_: Any) -> bool:
        return left_out() > 0 and heard.all[-1].kind in ("changed", "overflow") and _last(heard).value is True

    heard.until(ends_in_the_truth)
    stop()
    driver.close()
    assert edges() <= 20 * (took + 3)
    # The simulator folds edges together that come faster than it takes them: fewer than were made.
    assert edges() + left_out() <= count


def _last(heard: Heard) -> Any:
    return [each for each in heard.all if each.kind == "changed"][-1]


def test_an_adapter_that_is_unplugged_comes_back(driver: Gpio, chip: simulator.Chip, heard: Heard) -> None:
    driver.open()
    stop = driver.events(heard)
    heard.kind("initial")
    chip.unplug()
    heard.kind("lost")
    with pytest.raises(DriverError, match="not open"):
        driver.write({"read": True})
    chip.plug()
    assert heard.one("gap").value > 0
    heard.kind("initial", 2)
    chip.pull(0, True)
    heard.kind("changed")
    stop()


def test_an_input_cannot_be_set(driver: Gpio) -> None:
    driver.open()
    with pytest.raises(DriverError, match="is an input") as caught:
        driver.write({"value": True})
    assert not caught.value.retryable


# --- outputs ---


@pytest.fixture
def lamp(host: FakeHost, chip: simulator.Chip) -> Iterator[Gpio]:
    made = pin(host, line="LAMP", direction="output", initial=True, safe=False)
    yield made
    made.close()


def test_an_output_starts_as_declared_and_is_set(lamp: Gpio, chip: simulator.Chip, heard: Heard) -> None:
    lamp.open()
    assert chip.level(1) == 1
    stop = lamp.events(heard)
    assert heard.one("initial").value is True
    assert lamp.write({"value": False}) == {"value": False}
    assert chip.level(1) == 0
    assert lamp.write({"value": False}) == {"value": False}
    assert lamp.write({"read": True}) == {"value": False}
    stop()
    assert [each.value for each in heard.all if each.kind == "changed"] == [False]


def test_the_safe_state_ends_a_pulse(lamp: Gpio, chip: simulator.Chip, heard: Heard) -> None:
    lamp.open()
    lamp.write({"value": False})
    stop = lamp.events(heard)
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(lamp.write({"value": True, "pulse": 60})))
    thread.start()
    heard.until(lambda each: each.kind == "changed" and each.value is True)
    assert chip.level(1) == 1
    lamp.safe_state()
    thread.join(20)
    assert chip.level(1) == 0
    assert answer == [{"value": True, "interrupted": True}]
    stop()


def test_a_pulse_ends_with_the_level_before_it(lamp: Gpio, chip: simulator.Chip) -> None:
    lamp.open()
    assert lamp.write({"value": False, "pulse": 0.05}) == {"value": True, "pulse": 0.05}
    assert chip.level(1) == 1


def test_active_low_outputs(chip: simulator.Chip, host: FakeHost) -> None:
    driver = pin(host, line=1, chip=chip.name, direction="output", active_low=True, initial=True, safe=False)
    driver.open()
    assert chip.level(1) == 0
    driver.safe_state()
    assert chip.level(1) == 1
    driver.close()


# --- finding lines ---


def test_a_line_is_found_by_name_label_and_path(chip: simulator.Chip, host: FakeHost) -> None:
    whole = {(f"gpio:{chip.name}/1",)}
    ways: list[dict[str, Any]] = [
        {"line": "LAMP"},
        {"line": "LAMP", "chip": "flowork-sim"},
        {"line": 1, "chip": f"/dev/{chip.name}"},
        {"line": 1, "chip": chip.name},
    ]
    assert {pin(host, **way).claims() for way in ways} == whole


def test_a_line_in_use_names_its_holder(driver: Gpio, chip: simulator.Chip, host: FakeHost) -> None:
    driver.open()
    second = pin(host, line=0, chip=chip.name, direction="output")
    assert second.claims() == driver.claims()
    with pytest.raises(DriverError, match="in use by 'flowork'") as caught:
        second.open()
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"line": "DOORBELL"}, "no GPIO line is called 'DOORBELL'; names are .*DOOR, LAMP"),
        ({"line": 99, "chip": "flowork-sim"}, "has lines 0 to 7, not 99"),
        ({"line": 0, "chip": "gpiochip77"}, r"no GPIO chip 'gpiochip77'; there are .*flowork-sim, 8 lines"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    config: dict[str, Any], says: str, chip: simulator.Chip, host: FakeHost
) -> None:
    with pytest.raises(DriverError, match=says):
        pin(host, **config).open()


def test_a_chip_that_may_not_be_opened_names_the_group(chip: simulator.Chip) -> None:
    code = (
        "import gpiod, os, sys\n"
        "from drivers.gpio import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Gpio(GpioConfig(line=3), None).open()\n"
        "except DriverError as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert "usermod -aG gpio" in done.stdout, done.stderr


def test_the_first_edge_is_told_in_milliseconds(driver: Gpio, chip: simulator.Chip, heard: Heard) -> None:
    driver.open()
    stop = driver.events(heard)
    heard.kind("initial")
    late = []
    for count in range(1, 21):
        chip.pull(0, count % 2 == 1)
        told = heard.kind("changed", count)[-1]
        late.append(time.time() - told.at)
    stop()
    assert sorted(late)[10] < 0.25
