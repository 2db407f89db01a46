"""Steps that fail, hang, wait or start others: retries, timeouts, cancel, modes, families, waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.contracts import Busy, Effect, Event
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.kernel.submission import Submission
from tests.support.bench_engine import Bench
from tests.support.flows import compute, edges, flow, node
from tests.support.probes import probes


def only(bench: Bench, num: int = 1):  # type: ignore[no-untyped-def]
    """The one run of a flow that is under way."""
    (run,) = bench.engine.flows[num].active.values()
    return run


def test_retries_until_it_works_with_one_key(bench: Bench) -> None:
    probe = bench.registry.nodes["once"]
    probe.failures = 2  # type: ignore[attr-defined]
    bench.deploy(1, flow(node("o", "once", retry={"attempts": 3, "backoff": 0.01})))
    run = bench.run(7)
    assert run.state is RunState.SUCCEEDED
    assert len(probe.keys) == 3  # type: ignore[attr-defined]
    assert len(set(probe.keys)) == 1  # type: ignore[attr-defined]
    kinds = [record.kind for record in bench.rows()[0][1]]
    assert kinds == [trace.INTENT, trace.RETRY, trace.INTENT, trace.RETRY, trace.INTENT, trace.SAME]


def test_a_retry_waits_for_its_moment_over_a_restart(bench: Bench, make_bench) -> None:  # type: ignore[no-untyped-def]
    bench.registry.nodes["pure"].failures = 1  # type: ignore[attr-defined]
    bench.deploy(1, flow(node("p", "pure", retry={"attempts": 2, "backoff": "1h", "max_backoff": "2h", "jitter": 0})))
    bench.submit(1, "x")
    bench.turn(lambda: only(bench).state is RunState.WAITING)
    bench.die()
    again = make_bench()
    again.deploy(1, bench.flows[1])
    again.clock.offset = 1800
    assert again.recover() == 1
    run = only(again)
    assert run.state is RunState.WAITING
    (entry,) = again.engine.timers._heap
    assert 1700 < entry[0] - again.engine.timers._monotonic() < 1801


def test_an_error_that_will_not_go_away_is_not_retried(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload.x.y", retry={"attempts": 5, "backoff": "1h"})))
    assert bench.run({}).state is RunState.FAILED


def test_a_timeout_ends_the_work(bench: Bench) -> None:
    bench.deploy(1, flow(node("h", "hanging", timeout="50ms")))
    run = bench.run(1)
    assert run.error["id"] == "timed-out"
    assert bench.registry.nodes["hanging"].ended.wait(5)  # type: ignore[attr-defined]


def test_a_timeout_ends_blocking_work(bench: Bench) -> None:
    bench.deploy(1, flow(node("b", "blocking", timeout="50ms")))
    assert bench.run(1).error["id"] == "timed-out"
    assert bench.registry.nodes["blocking"].aborted.wait(5)  # type: ignore[attr-defined]


def test_the_whole_run_has_a_timeout(bench: Bench) -> None:
    bench.deploy(1, flow(node("h", "hanging"), settings={"timeout": "50ms"}))
    assert bench.run(1).error["id"] == "timed-out"
    assert bench.registry.nodes["hanging"].ended.wait(5)  # type: ignore[attr-defined]


def test_cancel_ends_the_work(bench: Bench) -> None:
    bench.deploy(1, flow(node("h", "hanging")))
    done = bench.submit(1)
    bench.turn(lambda: bench.registry.nodes["hanging"].began.acquire(blocking=False))  # type: ignore[attr-defined]
    bench.engine.cancel(only(bench), "enough")
    bench.turn(lambda: bool(done))
    assert done[0].state is RunState.CANCELLED
    assert bench.registry.nodes["hanging"].ended.wait(5)  # type: ignore[attr-defined]


def test_mode_single_skips(bench: Bench) -> None:
    bench.deploy(1, flow(node("d", "delay", {"for": "1h"}), settings={"mode": "single"}))
    bench.submit(1)
    bench.engine.pump()
    assert bench.run().state is RunState.SKIPPED


def test_mode_restart_replaces(bench: Bench) -> None:
    bench.deploy(1, flow(node("d", "delay", {"for": "1h"}), settings={"mode": "restart"}))
    first = bench.submit(1)
    bench.engine.pump()
    bench.submit(1)
    bench.engine.pump()
    assert first[0].state is RunState.CANCELLED
    assert len(bench.engine.flows[1].active) == 1


def test_mode_queued_goes_one_by_one_in_order(bench: Bench) -> None:
    bench.deploy(1, flow(node("l", "later"), settings={"mode": "queued"}))
    ends = [bench.submit(1, number) for number in range(3)]
    bench.engine.pump()
    pending = bench.registry.nodes["later"].pending  # type: ignore[attr-defined]
    for number in range(3):
        assert len(pending) == number + 1
        pending[number].complete(f"done {number}")
        bench.turn(lambda number=number: bool(ends[number]))
    assert [end[0].output() for end in ends] == ["done 0", "done 1", "done 2"]


def test_max_runs_queues_the_rest(bench: Bench) -> None:
    bench.deploy(1, flow(node("l", "later"), settings={"max_runs": 2}))
    for number in range(5):
        bench.submit(1, number)
    bench.engine.pump()
    pending = bench.registry.nodes["later"].pending  # type: ignore[attr-defined]
    assert len(pending) == 2
    pending[0].complete(1)
    bench.turn(lambda: len(pending) == 3)


def test_the_queue_has_a_bound(make_bench) -> None:  # type: ignore[no-untyped-def]
    bench = make_bench(queue_bound=3)
    bench.deploy(1, flow(node("l", "later"), settings={"max_runs": 1}))
    for _ in range(3):
        bench.submit(1)
    with pytest.raises(Busy):
        bench.submit(1)


def test_for_each_keeps_the_order_and_bounds_the_concurrency(bench: Bench) -> None:
    body = {"nodes": [compute("s", "payload * payload")]}
    bench.deploy(1, flow(node("f", "for_each", {"items": "payload", "concurrency": 2, "body": body})))
    assert bench.run([3, 1, 2]).output() == [9, 1, 4]
    assert bench.run([]).output() == []


def test_for_each_retries_an_item(bench: Bench) -> None:
    bench.registry.nodes["once"].failures = 1  # type: ignore[attr-defined]
    config = {
        "items": "payload",
        "attempts": 2,
        "backoff": 0.01,
        "concurrency": 1,
        "body": {"nodes": [node("o", "once")]},
    }
    bench.deploy(1, flow(node("f", "for_each", config)))
    assert bench.run([1, 2]).output() == [1, 2]
    assert len(bench.rows()) == 4


@pytest.mark.parametrize("on_error", ["fail", "collect"])
def test_for_each_with_a_failing_item(bench: Bench, on_error: str) -> None:
    config = {"items": "payload", "on_error": on_error, "body": {"nodes": [compute("x", "1 / payload")]}}
    bench.deploy(1, flow(node("f", "for_each", config)))
    run = bench.run([1, 0, 2])
    if on_error == "fail":
        assert run.state is RunState.FAILED
        assert run.error["message"].startswith("item 1 of 3: ZeroDivisionError")
    else:
        assert run.output()[0] == 1
        assert run.output()[1]["error"]["node"] == "x"


def test_a_subflow_gives_its_output_or_its_failure(bench: Bench) -> None:
    bench.deploy(2, flow(compute("half", "10 / payload")), "half")
    bench.deploy(1, flow(node("s", "subflow", {"flow": "half"}), compute("z", "payload + 1")))
    assert bench.run(5).output() == 3
    run = bench.run(0)
    assert run.state is RunState.FAILED
    assert "ZeroDivisionError" in run.error["message"]
    assert [row.letter for row, _ in bench.rows()] == [0, 0, 1, 0]


def test_flows_that_call_themselves_end(bench: Bench) -> None:
    bench.deploy(1, flow(node("s", "subflow", {"flow": "me"})), "me")
    run = bench.run(1)
    assert run.state is RunState.FAILED
    assert "deep" in run.error["message"]


def test_a_cancelled_parent_takes_its_children_along(bench: Bench) -> None:
    body = {"nodes": [node("h", "hanging")]}
    bench.deploy(1, flow(node("f", "for_each", {"items": "payload", "body": body})))
    done = bench.submit(1, [1, 2])
    bench.engine.pump()
    parent = next(run for run in bench.engine.runs.values() if run.parent is None)
    bench.engine.cancel(parent, "enough")
    bench.turn(lambda: bool(done))
    assert set(bench.states()) == {"cancelled"}


def test_a_delay_ends_at_its_moment_also_after_a_restart(bench: Bench, make_bench) -> None:  # type: ignore[no-untyped-def]
    bench.deploy(1, flow(node("d", "delay", {"for": "1h"}), compute("z", "payload ~ '!'")))
    bench.submit(1, "late")
    bench.engine.pump()
    bench.pass_time(3000)
    assert bench.states() == ["waiting"]
    bench.die()
    again = make_bench()
    again.deploy(1, bench.flows[1])
    again.clock.offset = 3000
    again.pass_time(0)
    again.recover()
    assert again.states() == ["waiting"]
    again.pass_time(601)
    again.turn(lambda: again.states() == ["succeeded"])
    assert again.rows()[0][1][-1].value == "late!"


def test_a_condition_must_hold_for_its_time(bench: Bench) -> None:
    nodes = (
        node("c", "condition", {"when": "payload > 3", "for": "2m"}),
        compute("y", "'held ' ~ payload"),
        compute("n", "'no'"),
    )
    bench.deploy(1, flow(*nodes, links=edges("c>y>true", "c>n>false")))
    first = bench.submit(1, 5)
    bench.engine.pump()
    assert bench.run(6).output() is None
    bench.pass_time(121)
    bench.turn(lambda: bool(first))
    assert first[0].output() == "held 5"
    second = bench.submit(1, 5)
    bench.engine.pump()
    assert bench.run(1).output() == "no"
    bench.turn(lambda: bool(second))
    assert second[0].output() is None


def test_an_approval_waits_for_its_answer(bench: Bench) -> None:
    nodes = (node("a", "approval", {"title": "Open {{ payload.what }}?"}), compute("y", "payload.approval.by"))
    bench.deploy(1, flow(*nodes, links=edges("a>y>yes")))
    done = bench.submit(1, {"what": "it"})
    bench.engine.pump()
    run = only(bench)
    assert run.parked[0].ask["title"] == "Open it?"
    bench.engine.steps.waits.wake(run, 0, "signal", "answer", {"answer": "yes", "by": "ann"})
    bench.turn(lambda: bool(done))
    assert done[0].output() == "ann"


def test_an_event_is_waited_for_by_name_and_condition(bench: Bench) -> None:
    config = {"name": "order-{{ payload.id }}", "when": "payload.ok and waiting.id == 7", "timeout": "1h"}
    nodes = (node("w", "wait_event", config), compute("z", "payload.n"), compute("t", "'late'"))
    bench.deploy(1, flow(*nodes, links=edges("w>z", "w>t>timeout")))
    done = bench.submit(1, {"id": 7})
    bench.engine.pump()
    slot = bench.engine.flows[1]
    assert bench.engine.signal(slot, "event:order-8", {"payload": {"ok": True, "n": 1}}) == 0
    assert bench.engine.signal(slot, "event:order-7", {"payload": {"ok": False, "n": 2}}) == 1
    bench.engine.pump()
    assert not done
    bench.engine.signal(slot, "event:order-7", {"payload": {"ok": True, "n": 3}})
    bench.turn(lambda: bool(done))
    assert done[0].output() == 3
    late = bench.submit(1, {"id": 7})
    bench.engine.pump()
    bench.pass_time(3601)
    bench.turn(lambda: bool(late))
    assert late[0].output() == "late"


def test_state_counts_throttles_and_deduplicates(bench: Bench) -> None:
    bench.deploy(1, flow(node("n", "state", {"action": "increment", "key": "n"}), compute("z", "state.n")))
    assert [bench.run().output() for _ in range(3)] == [1, 2, 3]
    bench.deploy(2, flow(node("t", "throttle", {"count": 2, "per": "1m"})))
    assert [bench.run(i, 2).output() for i in range(3)] == [0, 1, 2]
    assert bench.rows()[-1][1][0].port == "over"
    bench.pass_time(61)
    assert bench.run(9, 2) and bench.rows()[-1][1][0].port == "out"
    bench.deploy(
        3, flow(node("d", "deduplicate", {"key": "{{ payload.id }}"}), compute("z", "'new'"), links=edges("d>z"))
    )
    assert [bench.run({"id": i}, 3).output() for i in (1, 2, 1)] == ["new", "new", {"id": 1}]


def test_an_event_with_an_id_starts_one_run(bench: Bench, make_bench) -> None:  # type: ignore[no-untyped-def]
    bench.deploy(1, flow(compute("a", "payload")))
    bench.run(1, id="k1", unique=True)
    bench.submit(1, 1, id="k1", unique=True)
    bench.engine.pump()
    assert len(bench.rows()) == 1
    bench.die()
    again = make_bench()
    again.deploy(1, bench.flows[1])
    again.submit(1, 1, id="k1", unique=True)
    again.submit(1, 1, id="m1", redelivered=True)
    again.submit(1, 1, id="m1", redelivered=True)
    again.engine.pump()
    assert len(again.rows()) == 2


class Knocker:
    """Stands for the event that the engine waits on: what comes meanwhile is handed in at once, and nobody sleeps."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.waits: list[float] = []

    def clear(self) -> None: ...

    def set(self) -> None: ...

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) == 1:
            self.bench.engine.post(lambda: self.bench.engine.accept(Submission(2, "t1", "manual", Event(payload=2))))


@pytest.mark.parametrize(("effect", "commits"), [(Effect.IDEMPOTENT, 1), (Effect.ONCE, 2)])
def test_an_outcome_that_may_be_had_again_shares_the_next_commit(
    make_bench: Callable[..., Bench], effect: Effect, commits: int
) -> None:
    later = probes()["later"]
    later.effect_of = lambda config: effect  # type: ignore[method-assign]
    bench = make_bench(extra={"later": later})
    bench.deploy(1, flow(node("l", "later")))
    bench.deploy(2, flow(compute("a", "payload")))
    bench.engine.submit([Submission(1, "t1", "manual", Event(payload=1))])
    bench.engine.pump()
    bench.engine._knock = knocker = Knocker(bench)  # type: ignore[assignment]
    before = bench.engine.keeper.commits
    later.pending[0].complete(1)  # type: ignore[attr-defined]
    bench.engine.pump()
    if effect is Effect.ONCE:
        bench.run(2, num=2)
    assert bench.engine.keeper.commits == before + commits
    assert bench.states() == ["succeeded", "succeeded"]
    assert bool(knocker.waits) is (effect is Effect.IDEMPOTENT)
