"""When the system clock is believed: every source of trust on its own, and what overrules it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.kernel.clock import Clock, boot_id, hardware_time, kernel_says_synchronized

NOW = 1_795_262_400.0
LONG_AGO = 86_400.0


class Machine:
    """What the clock can see; a Raspberry Pi without network unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.wall = NOW
        self.monotonic = 100.0
        self.newest = 0.0
        self.synchronized = False
        self.hardware: float | None = None
        self.boot = "first"
        self.mark = folder / "synchronized"
        self.kept = folder / "clock"

    def clock(self, **other: Any) -> Clock:
        return Clock(
            lambda: self.newest,
            other.pop("kept", self.kept),
            wall=lambda: self.wall,
            monotonic=lambda: self.monotonic,
            synchronized=lambda: self.synchronized,
            mark=self.mark,
            hardware=lambda: self.hardware,
            boot=lambda: self.boot,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_that_knows_nothing_is_not_believed_and_says_what_to_do(machine: Machine) -> None:
    ok, why = machine.clock().trusted()
    assert not ok
    assert "clock: trust" in why


def test_network_time_is_believed(machine: Machine) -> None:
    machine.synchronized = True
    assert machine.clock().trusted() == (True, "synchronized by network time")


def test_the_mark_of_timesyncd_is_believed(machine: Machine) -> None:
    machine.mark.touch()
    assert machine.clock().trusted() == (True, "synchronized by systemd-timesyncd")


@pytest.mark.parametrize("off", [0.0, 14 * 3600.0, -12 * 3600.0])
def test_a_hardware_clock_is_believed_also_in_local_time(machine: Machine, off: float) -> None:
    machine.hardware = NOW + off
    assert machine.clock().trusted() == (True, "kept by the hardware clock")


@pytest.mark.parametrize("shown", [LONG_AGO, NOW - 86_400, NOW + 86_400])
def test_a_hardware_clock_with_an_empty_battery_is_not(machine: Machine, shown: float) -> None:
    """Linux went on from the time of the last shutdown, so the system clock looks sound."""
    machine.hardware = shown
    ok, why = machine.clock().trusted()
    assert not ok
    assert "battery" in why


def test_a_time_long_ago_is_wrong_whatever_says_otherwise(machine: Machine) -> None:
    machine.wall = machine.hardware = LONG_AGO
    machine.synchronized = True
    machine.mark.touch()
    ok, why = machine.clock().trusted()
    assert not ok
    assert "long ago" in why


def test_a_time_before_the_engines_own_history_is_wrong(machine: Machine) -> None:
    machine.hardware = NOW
    machine.newest = NOW + 61
    ok, why = machine.clock().trusted()
    assert not ok
    assert "history" in why
    machine.newest = NOW + 30  # a clock that was set back a little
    assert machine.clock().trusted()[0]


def test_network_time_overrules_a_history_from_the_future(machine: Machine) -> None:
    """A clock that once ran ahead must not stop the schedules until that time has come."""
    machine.newest = NOW + 10 * 365 * 86_400
    machine.synchronized = True
    assert machine.clock().trusted()[0]


def test_it_looks_again_every_few_seconds_until_it_is_right(machine: Machine) -> None:
    clock = machine.clock()
    assert not clock.trusted()[0]
    machine.synchronized = True
    machine.monotonic += 4
    assert not clock.trusted()[0]
    machine.monotonic += 2
    assert clock.trusted()[0]
    machine.synchronized = False
    machine.monotonic += 1_000_000
    assert clock.trusted()[0]


def test_a_restart_in_the_same_boot_needs_no_new_word_from_the_network(machine: Machine) -> None:
    machine.synchronized = True
    assert machine.clock().trusted()[0]
    machine.synchronized = False
    assert machine.clock().trusted() == (True, "it was right earlier since this boot")
    machine.boot = "second"
    assert not machine.clock().trusted()[0]
    machine.boot = ""
    machine.kept.write_text("")
    assert not machine.clock().trusted()[0]


def test_a_folder_that_cannot_be_written_does_not_matter(machine: Machine, tmp_path: Path) -> None:
    machine.synchronized = True
    assert machine.clock(kept=tmp_path / "missing" / "clock").trusted()[0]
    assert machine.clock(kept=None).trusted()[0]


def test_what_was_kept_may_be_garbage(machine: Machine) -> None:
    machine.kept.write_bytes(b"\xff\xfe")
    assert not machine.clock().trusted()[0]


def test_this_machine_can_be_asked() -> None:
    assert kernel_says_synchronized() in (True, False)
    shown = hardware_time()
    assert shown is None or shown > 0
    assert boot_id() == boot_id()
    assert Clock(lambda: 0.0).trusted()[1]
