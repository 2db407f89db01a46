"""When something is due: order, cancelling, jumps of the clock, and a thread that sleeps until then."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from appliance.kernel.timers import Timers

HOUR = 3600.0


class Clocks:
    """Monotonic and wall time, moved by hand."""

    def __init__(self) -> None:
        self.steady = 1000.0
        self.wall = 1_800_000_000.0
        self.rang = threading.Event()
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1
        self.rang.set()

    def sleep(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def timers(clocks: Clocks) -> Iterator[Timers]:
    made = Timers(lambda: clocks.steady, lambda: clocks.wall, clocks.ring)
    yield made
    made.stop()
    made.stop()


def follow(timers: Timers) -> None:
    with timers._changed:
        timers._follow_clock()


def test_in_order_and_once(timers: Timers, clocks: Clocks) -> None:
    fired: list[int] = []
    for number in (3, 1, 2):
        timers.after(number, lambda number=number: fired.append(number))  # type: ignore[misc]
    assert timers.fire() == 0
    clocks.sleep(2)
    assert timers.fire() == 2 and fired == [1, 2]
    clocks.sleep(50)
    assert timers.fire() == 1 and timers.fire() == 0
    assert fired == [1, 2, 3] and len(timers) == 0


def test_a_cancelled_one_does_not_fire(timers: Timers, clocks: Clocks) -> None:
    fired: list[int] = []
    number = timers.after(1, lambda: fired.append(1))
    timers.cancel(number)
    timers.cancel(number)
    timers.cancel(987_654)
    clocks.sleep(5)
    assert timers.fire() == 0 and fired == []


def test_cancelled_ones_take_no_room(timers: Timers, clocks: Clocks) -> None:
    for _ in range(5000):
        timers.cancel(timers.after(HOUR, lambda: None))
    assert len(timers._heap) < 200 and len(timers._cancelled) < 200
    for _ in range(5000):
        number = timers.after(0, lambda: None)
        timers.fire()
        timers.cancel(number)
    assert len(timers._heap) < 200 and len(timers._cancelled) < 200


@pytest.mark.parametrize("jump", [-90 * 86_400.0, -HOUR, HOUR, 90 * 86_400.0])
def test_a_jump_of_the_clock_moves_moments_and_leaves_durations(timers: Timers, clocks: Clocks, jump: float) -> None:
    fired: list[str] = []
    timers.at(clocks.wall + 2 * HOUR, lambda: fired.append("moment"))
    timers.after(2 * HOUR, lambda: fired.append("duration"))
    clocks.wall += jump
    follow(timers)
    timers.fire()
    assert fired == (["moment"] if jump > 2 * HOUR else [])
    clocks.sleep(2 * HOUR - min(0.0, jump) - 10)
    follow(timers)
    timers.fire()
    assert "moment" in fired or jump < 0
    clocks.sleep(10)
    timers.fire()
    assert sorted(fired) == ["duration", "moment"]


def test_something_due_may_set_something_due(timers: Timers, clocks: Clocks) -> None:
    fired: list[int] = []

    def again() -> None:
        fired.append(1)
        timers.after(0, again)

    timers.after(0, again)
    assert timers.fire() == 1
    assert timers.fire() == 1
    assert len(timers) == 1


def test_what_fails_does_not_keep_the_others(timers: Timers) -> None:
    fired: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    timers.after(0, fail)
    timers.after(0, lambda: fired.append(1))
    assert timers.fire() == 2 and fired == [1]


def test_the_thread_rings_when_something_is_due(timers: Timers, clocks: Clocks) -> None:
    timers.start()
    timers.after(HOUR, lambda: None)
    assert not clocks.rang.wait(0.05)
    timers.after(0, lambda: None)
    assert clocks.rang.wait(5)
    timers.fire()
    assert len(timers) == 1


def test_the_thread_does_not_spin(timers: Timers, clocks: Clocks) -> None:
    timers.start()
    timers.after(0, lambda: None)
    assert clocks.rang.wait(5)
    threading.Event().wait(0.1)
    assert clocks.rings < 60
