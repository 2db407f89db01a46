"""The write budget: what is counted, when it is spent, and that only history waits then."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.kernel.keeper import MAX_LATER
from appliance.kernel.wear import WINDOW, Wear, written_by_us
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node

MINUTE_SHARE = 100_000_000 / (24 * 60)


class Counter:
    """Bytes written, as the test says."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self) -> int:
        return self.total


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def wear(tmp_path: Path, counter: Counter) -> Wear:
    return Wear(tmp_path, written=counter, block=tmp_path / "none")


def test_an_hour_decides_and_is_forgotten(wear: Wear, counter: Counter) -> None:
    counter.total += int(MINUTE_SHARE * WINDOW * 0.9)
    wear.look()
    assert not wear.over(100e6)
    counter.total += int(MINUTE_SHARE * WINDOW * 0.2)
    wear.look()
    assert wear.over(100e6)
    assert not wear.over(0)
    for _ in range(WINDOW):
        wear.look()
    assert not wear.over(100e6)
    assert wear.view()["last_day"] == counter.total
    assert wear.view()["last_hour"] == 0


def test_a_machine_that_does_not_tell_is_no_card(wear: Wear) -> None:
    assert wear.on_card() is False
    assert wear.disk_total() is None


def test_a_card_is_known_by_its_device(tmp_path: Path, counter: Counter) -> None:
    device = tmp_path / "devices" / "mmc_host" / "mmcblk0" / "mmcblk0p2"
    device.mkdir(parents=True)
    (device / "stat").write_text("1 2 3 4 5 6 2000 8 9 10 11\n")
    number = tmp_path.stat().st_dev
    block = tmp_path / "block"
    block.mkdir()
    (block / f"{os.major(number)}:{os.minor(number)}").symlink_to(device)
    wear = Wear(tmp_path, written=counter, block=block)
    assert wear.on_card() is True
    assert wear.disk_total() == 2000 * 512


def test_what_this_process_writes_is_counted() -> None:
    assert written_by_us() >= 0


def test_history_alone_waits_and_nothing_is_lost(bench: Bench) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "payload + 1"), compute("b", "payload * 2")))
    commits = bench.engine.keeper.commits
    runs = [bench.run(number) for number in range(5)]
    assert [run.output() for run in runs] == [2, 4, 6, 8, 10]
    assert bench.engine.keeper.commits == commits
    assert bench.states() == []
    bench.engine.watch()  # once a minute
    bench.engine.pump()
    assert bench.engine.keeper.commits == commits + 1
    assert bench.states() == ["succeeded"] * 5
    assert [len(records) for _, records in bench.rows()] == [2] * 5


def test_what_has_effects_is_on_disk_before_them_and_takes_the_others_along(bench: Bench) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "1")))
    bench.deploy(2, flow(node("once", "once")))
    bench.run()
    assert bench.states() == []
    done = bench.submit(2)
    bench.engine.pump()
    assert len(bench.states()) == 2
    bench.turn(lambda: bool(done))
    assert bench.states() == ["succeeded"] * 2


def test_what_failed_and_what_must_not_come_twice_is_written_at_once(bench: Bench) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "payload / 0")))
    bench.run(1)
    assert bench.states() == ["failed"]
    bench.deploy(2, flow(compute("a", "1")))
    bench.run(1, num=2, id="only-once", unique=True)
    assert bench.states() == ["failed", "succeeded"]


def test_it_does_not_gather_without_end(bench: Bench) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "1")))
    for _ in range(MAX_LATER + 1):
        bench.run()
    assert len(bench.states()) == MAX_LATER + 1


@pytest.mark.parametrize("end", ["stop", "budget"])
def test_what_waits_is_written_when_the_engine_stops_or_the_budget_is_kept_again(bench: Bench, end: str) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "1")))
    bench.run()
    if end == "stop":
        bench.engine.stop()
    else:
        bench.engine.keeper.thrifty = False
        bench.run()
    assert set(bench.states()) == {"succeeded"}
    assert len(bench.states()) == (1 if end == "stop" else 2)


def test_a_redelivered_event_is_known_although_its_run_waits(bench: Bench) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "1")))
    bench.run(1, id="m1")
    bench.submit(1, 1, id="m1", redelivered=True)
    bench.engine.watch()
    bench.engine.pump()
    assert bench.states() == ["succeeded"]


def test_after_a_power_cut_only_history_is_missing(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    bench.engine.keeper.thrifty = True
    bench.deploy(1, flow(compute("a", "1")))
    bench.run()
    bench.die()
    other = make_bench()
    other.deploy(1, bench.flows[1])
    assert other.recover() == 0
    other.run()
    assert other.states() == ["succeeded"]
