"""The gpio driver on a real board: two pins that are connected by a wire, named in FLOWORK_PINS (``17,27``)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from drivers.gpio import Gpio, GpioConfig
from tests.drivers.host import FakeHost, Heard

PINS = os.environ.get("FLOWORK_PINS", "").split(",")
if len(PINS) != 2:
    pytest.skip("no FLOWORK_PINS: see tests/hardware/README.md", allow_module_level=True)


def line(name: str) -> int | str:
    return int(name) if name.isdecimal() else name


@pytest.fixture
def output(host: FakeHost) -> Iterator[Gpio]:
    made = Gpio(GpioConfig(line=line(PINS[0]), direction="output"), host)
    made.open()
    yield made
    made.safe_state()
    made.close()


@pytest.fixture
def watched(output: Gpio, host: FakeHost, heard: Heard) -> Iterator[Gpio]:
    made = Gpio(GpioConfig(line=line(PINS[1]), bias="pull-down"), host)
    made.open()
    stop = made.events(heard)
    heard.kind("initial")
    yield made
    stop()
    made.close()


def test_each_change_is_seen_within_10_milliseconds(output: Gpio, watched: Gpio, heard: Heard) -> None:
    late = []
    for count in range(1, 41):
        began = time.time()
        output.write({"value": count % 2 == 1})
        seen = heard.kind("changed", count)[-1]
        assert seen.value is (count % 2 == 1)
        assert began - 0.001 <= seen.at
        late.append(time.time() - seen.at)
    assert sorted(late)[20] < 0.01


def test_a_pulse_is_seen_from_both_sides(output: Gpio, watched: Gpio, heard: Heard) -> None:
    output.write({"value": True, "pulse": 0.05})
    up, down = heard.kind("changed", 2)
    assert (up.value, down.value) == (True, False)
    assert 0.045 < down.at - up.at < 0.1
