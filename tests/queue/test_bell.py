"""The doorbell by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.queue.bell import Doorbell
from tests.queue.support import PATIENCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bell"


@pytest.fixture
def bells(path: Path) -> Iterator[list[Doorbell]]:
    """Two, as two processes have them."""
    bells = [Doorbell(path), Doorbell(path)]
    for bell in bells:
        bell.open()
        bell.open()
    yield bells
    for bell in bells:
        bell.close()
        bell.close()


def test_a_ring_waits_for_whoever_listens_next(bells: list[Doorbell]) -> None:
    bells[0].ring()
    assert bells[1].wait(PATIENCE)
    assert not bells[0].wait(0), "it was heard"


def test_many_rings_are_heard_as_one(bells: list[Doorbell]) -> None:
    for _ in range(70_000):  # more than the pipe holds
        bells[0].ring()
    assert bells[0].wait(PATIENCE)
    assert not bells[0].wait(0)


def test_a_ring_wakes_a_waiting_thread(bells: list[Doorbell]) -> None:
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(bells[1].wait(PATIENCE)))
    thread.start()
    bells[0].ring()
    thread.join(PATIENCE)
    assert heard == [True]


def test_waiting_is_bounded(bells: list[Doorbell]) -> None:
    assert not bells[0].wait(0.01)


def test_wake_concerns_only_its_own_process(bells: list[Doorbell]) -> None:
    bells[0].wake()
    assert not bells[0].wait(PATIENCE)
    assert not bells[1].wait(0)


def test_a_closed_bell_neither_rings_nor_waits(bells: list[Doorbell]) -> None:
    bells[0].close()
    bells[0].ring()
    bells[0].wake()
    assert not bells[0].wait(PATIENCE)
    bells[0].open()
    bells[1].ring()
    assert bells[0].wait(PATIENCE)


def test_what_is_no_fifo_is_replaced(path: Path) -> None:
    path.write_text("copied by a tool that does not know FIFOs")
    bell = Doorbell(path)
    bell.open()
    assert path.is_fifo()
    bell.close()


def test_without_fifos_waiting_goes_on_by_looking(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bell = Doorbell(tmp_path / "missing folder" / "bell")
    bell.open()
    bell.ring()
    assert bell.wait(PATIENCE), "after a short while: look for work"
    bell.wake()
    assert not bell.wait(PATIENCE)
    bell.close()
    assert "workers look for tasks every 0.25 s" in caplog.text


def test_no_descriptor_stays_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    bell = Doorbell(path)
    for _ in range(20):
        bell.open()
        bell.ring()
        bell.close()
    assert len(os.listdir("/proc/self/fd")) == before
