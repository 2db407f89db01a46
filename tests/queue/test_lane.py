"""The memory lane by itself."""

from __future__ import annotations

import threading

import pytest

from appliance.queue.lane import MemoryLane
from tests.queue.support import PATIENCE


@pytest.fixture
def lane() -> MemoryLane[str]:
    lane: MemoryLane[str] = MemoryLane()
    lane.open()
    return lane


def drain(lane: MemoryLane[str]) -> list[str | None]:
    lane.put(b"last", "last", float("-inf"))
    return list(iter(lane.get, "last"))


def test_higher_priorities_first_then_in_order(lane: MemoryLane[str]) -> None:
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        assert lane.put(name.encode(), name, priority)
    assert drain(lane) == ["b", "d", "a", "c", "e"]


def test_a_key_is_pending_once_at_its_highest_priority(lane: MemoryLane[str]) -> None:
    lane.put(b"x", "x")
    lane.put(b"y", "y", 1)
    lane.put(b"x", "x", 2)
    lane.put(b"x", "x", 1)
    assert drain(lane) == ["x", "y"]


def test_a_raised_priority_does_not_outlive_its_wake_up(lane: MemoryLane[str]) -> None:
    lane.put(b"x", "x", 0)
    lane.put(b"x", "x", 2)
    assert lane.get() == "x"
    lane.put(b"x", "x", -2)
    lane.put(b"y", "y", -1)
    assert drain(lane) == ["y", "x"]


def test_a_key_that_was_taken_may_come_again(lane: MemoryLane[str]) -> None:
    lane.put(b"x", "first")
    assert lane.get() == "first"
    lane.put(b"x", "second")
    assert drain(lane) == ["second"]


def test_a_closed_lane_takes_nothing(lane: MemoryLane[str]) -> None:
    assert not MemoryLane[str]().put(b"x", "x"), "not opened yet"
    lane.put(b"x", "x")
    lane.close()
    lane.close()
    assert not lane.put(b"y", "y")
    assert lane.get() is None
    lane.open()
    assert drain(lane) == []


def test_put_and_close_wake_who_waits(lane: MemoryLane[str]) -> None:
    taken: list[str | None] = []
    came = threading.Event()

    def work() -> None:
        while (item := lane.get()) is not None:
            taken.append(item)
            came.set()

    thread = threading.Thread(target=work)
    thread.start()
    lane.put(b"x", "x")
    assert came.wait(PATIENCE)
    lane.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert taken == ["x"]
