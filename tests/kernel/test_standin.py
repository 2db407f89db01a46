"""Runs accepted in the kernel's place: on disk at once, taken up once, also beside a kernel that is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.contracts import Busy, Event
from appliance.kernel import standin as standing
from appliance.kernel.recovery import Recovery
from appliance.kernel.standin import StandIn
from appliance.store.runids import from_text
from appliance.store.shards import StoreFailure
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.shard_files import DAY

NO_SECRETS: tuple[str, ...] = ()


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    made = StandIn(tmp_path, sync=False, secrets=lambda: NO_SECRETS)
    yield made
    made.close()
    made.close()


def accept(standin: StandIn, payload: object = 1, **event: object) -> str:
    return standin.accept(1, 1, "t1", "manual", Event(payload=payload, **event))  # type: ignore[arg-type]


def test_taken_up_at_the_start(standin: StandIn, tmp_path: Path, make_bench: Callable[..., Bench]) -> None:
    runs = [accept(standin, number, meta={"from": "here"}) for number in range(5)]
    standin.close()
    bench = make_bench()
    bench.deploy(1, flow(compute("a", "[payload, event.from, event.type, event.trigger]")))
    assert bench.recover() == 5
    bench.turn(lambda: bench.states() == ["succeeded"] * 5)
    assert [row.id for row, _ in bench.rows()] == [from_text(run) for run in runs]
    assert bench.rows()[2][1][0].value == [2, "here", "manual", "t1"]


def test_adopted_once_by_a_kernel_that_is_there(standin: StandIn, bench: Bench) -> None:
    bench.deploy(1, flow(node("o", "once"), node("d", "delay", {"for": "1h"}), settings={"max_runs": 100}))
    bench.submit(1, "own")
    bench.engine.pump()
    for number in range(5):
        accept(standin, number)
    recovery = Recovery(bench.engine)
    assert recovery.strays() == 5
    assert recovery.strays() == 0
    keys = bench.registry.nodes["once"].keys  # type: ignore[attr-defined]
    bench.turn(lambda: bench.states() == ["waiting"] * 6)
    assert recovery.strays() == 0
    bench.pass_time(3700)
    bench.turn(lambda: bench.states() == ["succeeded"] * 6)
    assert recovery.strays() == 0
    assert len(keys) == len(set(keys)) == 6


def test_the_mode_of_the_flow_counts(standin: StandIn, bench: Bench) -> None:
    bench.deploy(1, flow(node("l", "later"), settings={"mode": "queued"}))
    for number in range(3):
        accept(standin, number)
    Recovery(bench.engine).strays()
    pending = bench.registry.nodes["later"].pending  # type: ignore[attr-defined]
    for number in range(3):
        bench.turn(lambda: len(pending) > 0)
        assert len(pending) == 1
        pending.pop().complete(number)
    bench.turn(lambda: bench.states() == ["succeeded"] * 3)


def test_one_event_one_run_whoever_hears_of_it(standin: StandIn, bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload")))
    mine = bench.run(1, id="k1", unique=True)
    assert accept(standin, 1, id="k1", unique=True) == mine.text
    theirs = accept(standin, 2, id="k2", unique=True)
    assert accept(standin, 2, id="k2", unique=True) == theirs
    bench.submit(1, 2, id="k2", unique=True)
    bench.engine.pump()
    Recovery(bench.engine).strays()
    bench.turn(lambda: bench.states() == ["succeeded"] * 2)


def test_from_many_threads(standin: StandIn, bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload"), settings={"max_runs": 1000}))
    runs: list[str] = []

    def send() -> None:
        runs.extend(accept(standin, number) for number in range(25))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(runs)) == 200
    assert Recovery(bench.engine).strays() == 200
    bench.turn(lambda: bench.states() == ["succeeded"] * 200)


def test_what_waits_is_bounded_until_the_kernel_is_back(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_WAITING", 3)
    first = accept(standin, id="x", unique=True)
    accept(standin)
    accept(standin)
    with pytest.raises(Busy):
        accept(standin)
    assert accept(standin, id="x", unique=True) == first
    standin.kernel_is_back()
    accept(standin)


def test_a_damaged_queue_costs_only_the_note(standin: StandIn, tmp_path: Path, bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload")))
    standin._note = lambda: 1 / 0
    accept(standin)
    standin._note = lambda: 1 / 0
    accept(standin)
    assert Recovery(bench.engine).strays() == 2


def test_a_disk_that_refuses_is_told_to_the_sender(standin: StandIn, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(StoreFailure):
        accept(standin)


@pytest.mark.parametrize("payload", ["a\ud800", 1 << 70, object()])
def test_a_payload_that_cannot_be_kept_is_said_in_words(standin: StandIn, bench: Bench, payload: object) -> None:
    bench.deploy(1, flow(compute("a", "payload")))
    accept(standin, payload)
    assert Recovery(bench.engine).strays() == 1
    bench.turn(lambda: bench.states() == ["succeeded"])


def test_the_days_of_its_runs_are_looked_at_with_the_clock_set_forward(standin: StandIn, bench: Bench) -> None:
    """Its ids go on behind the newest there is, so they are in the newest shard whatever its clock says."""
    bench.deploy(1, flow(compute("a", "payload")))
    bench.pass_time(5 * DAY)
    bench.run(1)
    accept(standin)
    assert Recovery(bench.engine).strays() == 1
