"""Housekeeping: the watchdog under load, the reserve, durable values, sweeps that wait for the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.firststart import prepare
from appliance.kernel import maintenance as housekeeping
from appliance.kernel.blobs import make_blobs
from appliance.kernel.maintenance import RESERVE, RESERVE_BYTES, Maintenance, check_shards, give_up_reserve
from appliance.store import shards
from appliance.store.metadata import Store, open_store
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.kernels import wait_for
from tests.support.shard_files import DAY, garbage_header, put, wreck_table


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def house(bench: Bench, store: Store) -> Iterator[Maintenance]:
    """Maintenance of a bench whose engine turns on a thread of its own, as in a kernel."""
    made = Maintenance(bench.data, bench.engine, bench.journal, store, make_blobs(bench.data))
    bench.engine.keeper.make_room = made.make_room
    bench.engine.keeper.committed = made.after_commit
    rung, over = threading.Event(), threading.Event()

    def turn() -> None:
        while not over.is_set():
            if rung.wait(0.05):
                rung.clear()
                bench.engine.pump()

    bench.engine._ring = rung.set
    thread = threading.Thread(target=turn)
    thread.start()
    yield made
    made.stop()
    made.stop()
    over.set()
    thread.join()


def test_the_watchdog_looks_also_while_commits_go_on(
    bench: Bench, house: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "TICK", 0.05)
    house._next_tick = 0.0
    ticks: list[float] = []
    house.on_tick = lambda: ticks.append(time.monotonic())
    house.start()
    deadline = time.monotonic() + 5
    while len(ticks) < 3 and time.monotonic() < deadline:
        house.after_commit()
        house._commits |= 62
    assert len(ticks) >= 3


def test_the_reserve_is_given_up_once_and_laid_again(
    bench: Bench, house: Maintenance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    house.start()
    reserve = tmp_path / RESERVE
    wait_for(lambda: reserve.exists() and reserve.stat().st_size == RESERVE_BYTES)
    house.make_room()
    assert not reserve.exists() and not give_up_reserve(tmp_path)
    house._next_tick = 0.0
    house.nudge_sweep()
    wait_for(reserve.exists)
    give_up_reserve(tmp_path)
    monkeypatch.setattr(housekeeping, "free_bytes", lambda data: RESERVE_BYTES)
    house._next_tick = 0.0
    house.nudge_sweep()
    wait_for(lambda: house._next_tick > 0.0)
    assert not reserve.exists(), "it would fill the disk itself"


def test_a_start_on_a_full_disk_gives_the_reserve_up_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reserve = tmp_path / RESERVE
    reserve.write_bytes(bytes(RESERVE_BYTES))
    prepare(tmp_path)
    assert reserve.exists(), "there is room"
    # Nothing can be opened until it is gone; an engine whose folder cannot be made ready is not started at all.
    monkeypatch.setattr(housekeeping, "free_bytes", lambda data: 0 if reserve.exists() else RESERVE_BYTES)
    prepare(tmp_path)
    assert not reserve.exists()


def test_a_full_disk_thins_history_that_is_within_its_bound(
    bench: Bench, house: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "MORE_ROOM", 1)
    now = bench.clock()
    for back in (5, 4, 3):
        put(bench.journal, now - back * DAY, 50)
    bench.journal.close()
    house.start()
    house.sweep()
    assert len(shards.days(bench.data)) == 3
    house.make_room()
    wait_for(lambda: len(shards.days(bench.data)) == 2)


def test_durable_values_move_to_the_store_and_are_not_counted_twice(
    bench: Bench, house: Maintenance, store: Store, make_bench: Callable[..., Bench]
) -> None:
    bench.deploy(1, flow(node("n", "state", {"action": "increment", "key": "n"})))
    for number in range(5):
        bench.submit(1, number)
    wait_for(lambda: bench.states() == ["succeeded"] * 5)
    house._save_state()
    bench.submit(1, 6)
    wait_for(lambda: bench.states() == ["succeeded"] * 6)
    assert store.values.state_version() == 5
    ops = bench.journal.state_ops(store.values.state_version())
    assert [op.ver for op in ops] == [6]


def test_a_sweep_gives_way_when_the_engine_does_not_answer(
    bench: Bench, house: Maintenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wanted to do is not done later behind its back."""
    waiting: list[Callable[[], None]] = []
    monkeypatch.setattr(bench.engine, "post", waiting.append)
    changed: list[int] = []
    house._stopping = True
    assert not house._exchange("2026-01-01", 0, lambda: changed.append(1))
    waiting[0]()
    assert changed == []
    house._stopping = False


def test_a_sweep_beside_a_working_engine(bench: Bench, house: Maintenance) -> None:
    now = bench.clock()
    put(bench.journal, now - 400 * DAY, 200)
    house.start()
    bench.deploy(1, flow(compute("a", "payload"), settings={"max_runs": 1000}))
    done: list[list[Any]] = [bench.submit(1, number) for number in range(200)]
    house.nudge_sweep()
    wait_for(lambda: len(shards.days(bench.data)) == 1 and all(done))
    assert bench.states() == ["succeeded"] * 200


def test_housekeeping_that_fails_goes_on(bench: Bench, house: Maintenance, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[int] = []
    monkeypatch.setattr(house, "_checkpoint", broken)
    house.on_tick = lambda: ticks.append(1)
    house._next_tick = 0.0
    house.start()
    wait_for(lambda: ticks)


def broken() -> None:
    raise OSError("no")


def test_damaged_shards_are_named(bench: Bench) -> None:
    days = [put(bench.journal, bench.clock() - back * DAY, 50) for back in (3, 2, 1)]
    assert days
    bench.journal.close()
    assert check_shards(bench.data) == []
    names = shards.days(bench.data)
    garbage_header(shards.shard_path(bench.data, names[0]))
    wreck_table(shards.shard_path(bench.data, names[1]), "run")
    assert [problem.split(":")[0] for problem in check_shards(bench.data)] == [f"{name}.db" for name in names[:2]]
