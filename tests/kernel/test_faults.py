"""What must hold when things go wrong inside a turn: every event answered once, every run ended once, nothing leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from appliance.contracts import Busy, Context, Effect, Event, Node, Park, RunEnded, Spawn, Wake
from appliance.engine.states import RunState
from appliance.kernel.submission import Submission
from tests.support.bench_engine import Bench
from tests.support.flows import compute, edges, flow, node
from tests.support.probes import ProbeConfig, probes


class Signals(Node[ProbeConfig]):
    """Wakes whoever waits for ``go``."""

    Config = ProbeConfig
    inline = True

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        ctx.signal("go", 1)
        return payload


class Waits(Node[ProbeConfig]):
    """Waits for ``go``; fails then if told to."""

    Config = ProbeConfig
    inline = True

    def __init__(self, effect: Effect = Effect.PURE) -> None:
        self.chosen = effect
        self.fails = False
        self.resumed = 0

    def effect_of(self, config: Any) -> Effect:
        return self.chosen

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        return Park(signals=("go",))

    def resume(self, ctx: Context, config: ProbeConfig, payload: Any, wake: Wake) -> Any:
        self.resumed += 1
        if self.fails:
            raise ValueError("told to fail")
        return wake.kind


class Many(Node[ProbeConfig]):
    """Spawns runs of another flow."""

    Config = ProbeConfig
    inline = True

    def __init__(self) -> None:
        self.spawn = Spawn([])

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        return self.spawn

    def resume(self, ctx: Context, config: ProbeConfig, payload: Any, wake: Wake) -> Any:
        return [result["ok"] for result in wake.value]


@pytest.fixture
def extra() -> dict[str, Any]:
    return probes() | {"signals": Signals(), "waits": Waits(), "waits_once": Waits(Effect.ONCE), "many": Many()}


@pytest.fixture
def bench(make_bench: Callable[..., Bench], extra: dict[str, Any]) -> Bench:
    return make_bench(extra=extra)


def ends(bench: Bench) -> list[RunEnded]:
    seen: list[RunEnded] = []
    bench.engine.listeners.append(seen.append)
    return seen


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_that_wakes_its_own_runs_last_step_ends_the_run_once(bench: Bench, extra: Any, fails: bool) -> None:
    extra["waits"].fails = fails
    bench.deploy(1, flow(node("w", "waits"), node("s", "signals"), links=[]))
    seen = ends(bench)
    done = bench.submit(1)
    bench.engine.pump()
    assert len(seen) == len(done) == 1
    assert bench.engine.counts == {"failed" if fails else "succeeded": 1}
    assert (bench.engine.keeper.waiting, len(bench.engine.timers)) == (0, 0)


@pytest.mark.parametrize("condition", ["payload.nothing > 3", "1 / 0"])
def test_a_broken_condition_behind_an_error_port(bench: Bench, extra: Any, condition: str) -> None:
    extra["pure"].failures = 1
    links = [{"from": "p", "to": "z", "port": "error", "condition": condition}]
    bench.deploy(1, flow(node("p", "pure"), compute("z", "1"), links=links))
    run = bench.run(1)
    assert run.state is RunState.FAILED and run.error["node"] == "p"


def test_a_broken_condition_goes_to_the_error_port(bench: Bench) -> None:
    links = [{"from": "a", "to": "b", "condition": "payload.nothing > 3"}, *edges("a>z>error")]
    bench.deploy(1, flow(compute("a", "payload"), compute("b", "1"), compute("z", "'caught'"), links=links))
    assert bench.run({}).output() == "caught"


def test_a_fault_inside_the_engine_ends_one_run_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.deploy(1, flow(compute("a", "payload"), compute("b", "payload")))
    record, count = bench.engine.keeper.record, [0]

    def failing(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise RuntimeError("a mistake of ours")
        return record(*arguments)

    monkeypatch.setattr(bench.engine.keeper, "record", failing)
    runs = [bench.submit(1, number) for number in range(3)]
    bench.engine.pump()
    assert sorted(run[0].state.label for run in runs) == ["failed", "succeeded", "succeeded"]
    assert not bench.engine.runs


def test_what_is_due_may_fail(bench: Bench) -> None:
    fired: list[int] = []
    bench.engine.timers.after(0, lambda: 1 / 0)  # type: ignore[arg-type]
    bench.engine.timers.after(0, lambda: fired.append(1))
    bench.engine.pump()
    assert fired == [1]


def test_waiting_does_not_drift(bench: Bench, extra: Any) -> None:
    """Branches that wait beside branches that work, in every order of their ends."""
    later = extra["later"].pending
    bench.deploy(1, flow(node("l", "later"), node("w", "waits"), node("d", "delay", {"for": "1h"}), links=[]))
    for order in ("later", "go", "time", "cancel", "cancel waiting"):
        later.clear()
        done = bench.submit(1)
        bench.engine.pump()
        (run,) = bench.engine.runs.values()
        assert bench.engine.keeper.waiting == 0 and run.state.label == "running"
        if order == "cancel":
            bench.engine.cancel(run, "x")
        elif order == "go":
            bench.engine.signal(bench.engine.flows[1], "go", 1)
        elif order == "time":
            bench.pass_time(3601)
        if order != "cancel":
            assert bench.engine.keeper.waiting == 0
            later[0].complete(1)
            bench.engine.pump()
            assert bench.engine.keeper.waiting == 1 and run.state.label == "waiting"
        if order == "cancel waiting":
            bench.engine.cancel(run, "x")
        bench.engine.signal(bench.engine.flows[1], "go", 1)
        bench.pass_time(3601)
        bench.engine.pump()
        assert done and bench.engine.keeper.waiting == 0 and not bench.engine.load()


def test_a_run_timeout_leaves_nothing_behind(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "1"), settings={"timeout": "1h"}))
    for _ in range(300):
        bench.run(1)
    assert len(bench.engine.timers) < 200


def test_a_run_timeout_goes_on_over_a_restart(bench: Bench, make_bench: Callable[..., Bench], extra: Any) -> None:
    bench.deploy(1, flow(node("w", "waits"), settings={"timeout": "1h"}))
    bench.submit(1)
    bench.engine.pump()
    bench.pass_time(3000)
    bench.die()
    other = make_bench(extra=extra)
    other.deploy(1, bench.flows[1])
    other.pass_time(3000)
    other.recover()
    (entry,) = other.engine.timers._heap
    assert 590 < entry[0] - time.monotonic() < 601


def test_a_run_whose_time_ran_out_while_nobody_was_there(
    bench: Bench, make_bench: Callable[..., Bench], extra: Any
) -> None:
    bench.deploy(1, flow(node("w", "waits"), settings={"timeout": "1h"}))
    bench.submit(1)
    bench.engine.pump()
    bench.die()
    other = make_bench(extra=extra)
    other.deploy(1, bench.flows[1])
    other.pass_time(3700)
    other.recover()
    other.turn(lambda: other.states() == ["failed"])


def test_priorities_and_the_order_of_equals(bench: Bench) -> None:
    order: list[str] = []
    for num, priority in enumerate((0, 5, -5, 9), start=1):
        bench.deploy(num, flow(compute("a", "payload"), settings={"priority": priority}))
    for number in range(3):
        for num in (1, 2, 3, 4):
            submission = Submission(num, "t", "test", Event(payload=f"{num}{number}"))
            submission.ended = lambda run: order.append(run.output())
            bench.engine.submit([submission])
    bench.engine.pump()
    assert order == ["40", "41", "42", "20", "21", "22", "10", "11", "12", "30", "31", "32"]


def test_a_family_of_runs_that_end_at_once(bench: Bench, extra: Any) -> None:
    """Skipped as they are accepted, ten thousand of them: no recursion."""
    bench.deploy(2, flow(node("h", "hanging"), settings={"mode": "single"}), "busy")
    bench.submit(2)
    bench.engine.pump()
    extra["many"].spawn = Spawn(list(range(10_000)), "busy", 3)
    bench.deploy(1, flow(node("m", "many")))
    assert bench.run(num=1).output() == [False] * 10_000
    extra["many"].spawn = Spawn([1, 2], "nowhere")
    assert bench.run(num=1).output() == [False, False]


def test_bodies_do_not_count_as_runs_of_their_flow(bench: Bench, extra: Any) -> None:
    body = {"nodes": [node("l", "later")]}
    each = node("f", "for_each", {"items": "payload", "concurrency": 5, "body": body})
    bench.deploy(1, flow(each, settings={"max_runs": 2}))
    bench.submit(1, [1, 2, 3])
    bench.submit(1, [1, 2, 3])
    third = bench.submit(1, [1])
    bench.engine.pump()
    assert len(extra["later"].pending) == 6
    assert len(bench.engine.flows[1].queue) == 1
    for number in range(7):
        bench.turn(partial(lambda wanted: len(extra["later"].pending) > wanted, number))
        extra["later"].pending[number].complete(number)
    bench.turn(lambda: bool(third))
    assert bench.engine.flows[1].inner == 0


def test_stopping_answers_every_event_and_cuts_nothing_that_did_not_begin(
    bench: Bench, make_bench: Callable[..., Bench], extra: Any
) -> None:
    nodes = [compute(f"n{n}", "payload") for n in range(5)]
    bench.deploy(1, flow(*nodes, node("o", "once"), settings={"max_runs": 1000}))
    answers: list[str] = []
    for number in range(200):
        submission = Submission(1, "t", "test", Event(payload=number))
        submission.committed = answers.append
        bench.engine.submit([submission])
    bench.engine.draining = True
    with pytest.raises(Busy):
        bench.engine.submit([Submission(1, "t", "test", Event())])
    stopping = threading.Thread(target=bench.engine.stop, args=(5.0,))
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive(), "the last turn never ended"
    assert len(set(answers)) == 200
    late: list[Any] = []
    submission = Submission(1, "t", "test", Event())
    submission.refused = late.append
    bench.engine.post(lambda: bench.engine._accept_all([submission]))
    bench.engine._refuse_rest()
    assert isinstance(late[0], Busy)
    bench.die()
    other = make_bench(extra=extra)
    other.deploy(1, bench.flows[1])
    other.recover()
    other.turn(lambda: set(other.states()) == {"succeeded"})
    assert len(set(extra["once"].keys)) == len(extra["once"].keys) == 200


def test_a_once_step_that_had_not_begun_is_not_unverified(
    bench: Bench, make_bench: Callable[..., Bench], extra: Any
) -> None:
    bench.deploy(1, flow(compute("a", "1"), node("o", "once")))
    bench.submit(1)
    begin_fenced = bench.engine.steps.begin_fenced

    def stop_then_go_on() -> None:
        bench.engine.draining = True
        begin_fenced()

    bench.engine.steps.begin_fenced = stop_then_go_on  # type: ignore[method-assign]
    bench.engine.pump()
    bench.engine.stop(0.1)
    bench.die()
    assert extra["once"].keys == []
    other = make_bench(extra=extra)
    other.deploy(1, bench.flows[1])
    other.recover()
    other.turn(lambda: other.states() == ["succeeded"])
    assert len(extra["once"].keys) == 1


def test_a_resumed_step_with_an_effect_is_fenced(bench: Bench, make_bench: Callable[..., Bench], extra: Any) -> None:
    bench.deploy(1, flow(node("w", "waits_once")))
    bench.submit(1)
    bench.engine.pump()
    commit, seen = bench.journal.commit, []

    def watched(batch: Any) -> None:
        seen.append(extra["waits_once"].resumed)
        commit(batch)

    bench.journal.commit = watched  # type: ignore[method-assign]
    bench.engine.signal(bench.engine.flows[1], "go", 1)
    bench.turn(lambda: bench.states() == ["succeeded"])
    assert seen[0] == 0 and extra["waits_once"].resumed == 1


def test_the_watchdog_pushes_what_is_stuck_once(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "1"), compute("b", "2")))
    done = bench.submit(1)
    bench.engine._take_inbox()
    bench.engine.watch()
    assert len(bench.engine.ready) == 1
    bench.engine.ready.clear()
    bench.engine.watch()
    assert len(bench.engine.ready) == 1
    bench.engine.pump()
    assert done


def test_nothing_grows_over_many_runs(bench: Bench) -> None:
    nodes = (compute("a", "payload"), node("d", "delay", {"for": "1s"}))
    bench.deploy(1, flow(*nodes, settings={"timeout": "1h", "max_runs": 10_000}))
    for _ in range(10):
        for number in range(200):
            bench.submit(1, number, id=f"x{number}", redelivered=False)
        bench.engine.pump()
        bench.pass_time(3)
        bench.engine.pump()
    engine = bench.engine
    assert set(bench.states()) == {"succeeded"}
    sizes = (len(engine.runs), len(engine.ready), len(engine.ranked), len(engine.flows[1].active), engine.load())
    assert sizes == (0, 0, 0, 0, 0)
    assert len(engine.timers._heap) + len(engine.timers._cancelled) < 300
    keeper = engine.keeper
    assert not (keeper._touched or keeper._keys or keeper._ops or keeper._blobs or keeper._callbacks)
