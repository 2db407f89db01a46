"""What an engine does differently when others share its journal: it writes before it goes on, and knows its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.contracts import Effect, Event
from appliance.engine.states import RunState
from appliance.kernel.families import COMING
from appliance.kernel.submission import Elsewhere, Submission
from appliance.store.errors import EventTaken, LeaseLost
from appliance.store.journal import Batch
from appliance.store.runids import from_text, to_text
from appliance.store.shards import StoreFailure
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.probes import Counted


@pytest.fixture
def probe() -> Counted:
    return Counted(Effect.IDEMPOTENT)


@pytest.fixture
def bench(tmp_path: Path, probe: Counted) -> Iterator[Bench]:
    made = Bench(tmp_path, {"probe": probe})
    yield made
    made.die()


class Ended(BaseException):
    """The process is gone, as :meth:`Homes.cut` leaves it."""


def failing(bench: Bench, *errors: BaseException | None) -> list[Batch]:
    """Let the next commits fail so; None lets one through. Returns what was committed."""
    commit, left, written = bench.journal.commit, list(errors), []

    def commit_or_fail(batch: Batch) -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        commit(batch)
        written.append(batch)

    bench.journal.commit = commit_or_fail  # type: ignore[method-assign]
    return written


def test_nothing_goes_on_that_is_not_written(bench: Bench, probe: Counted) -> None:
    """On one machine an effect happens though the disk refuses; here another kernel would do it again."""
    bench.deploy(1, flow(node("act", "probe")))
    bench.engine.keeper.insist = 0.001
    seen: list[int] = []
    written = failing(bench, *(StoreFailure("away") for _ in range(3)))
    bench.engine.still_ours = lambda: seen.append(len(written))  # right before effects begin
    assert bench.run().state is RunState.SUCCEEDED
    assert seen[0] == 1
    assert len(probe.keys) == 1
    assert bench.engine.keeper.degraded == ""


def test_who_was_taken_over_from_does_nothing_more(bench: Bench, probe: Counted) -> None:
    def end() -> None:
        raise Ended

    bench.deploy(1, flow(node("act", "probe")))
    bench.engine.keeper.lost = end
    failing(bench, LeaseLost("gone"))
    bench.submit()
    with pytest.raises(Ended):
        bench.engine.pump()
    assert not probe.keys


def test_an_effect_does_not_begin_once_the_lease_is_over(bench: Bench, probe: Counted) -> None:
    def end() -> None:
        raise Ended

    bench.deploy(1, flow(node("act", "probe")))
    bench.engine.still_ours = end
    bench.submit()
    with pytest.raises(Ended):
        bench.engine.pump()
    assert not probe.keys
    assert bench.states() == ["running"]  # but the run is on disk, for whoever goes on


def test_an_event_that_another_kernel_was_first_with_makes_no_second_run(bench: Bench, probe: Counted) -> None:
    bench.deploy(1, flow(node("act", "probe")))
    other = from_text("0SA2S7FS02000")
    commit, told = bench.journal.commit, []

    def taken_once(batch: Batch) -> None:
        bench.journal.commit = commit  # type: ignore[method-assign]
        raise EventTaken({run: other for _, run in batch.keys})

    bench.journal.commit = taken_once  # type: ignore[method-assign]
    for number, unique in enumerate((True, False)):
        submission = Submission(1, "t1", "test", Event(payload=number, id=f"e{number}", unique=unique))
        submission.committed = told.append
        bench.engine.submit([submission])
    bench.turn(lambda: not bench.engine.runs)
    rows = bench.rows()
    assert len(rows) == 1
    assert told == [to_text(other), to_text(rows[0][0].id)]
    assert len(probe.keys) == 1


def at_home(bench: Bench, *flows: int) -> set[int]:
    homes = set(flows)

    def require(num: int) -> None:
        if num not in homes:
            raise Elsewhere("not here")

    bench.engine.require_home = require
    return homes


def test_a_flow_of_another_kernel_is_refused(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "1")))
    at_home(bench)
    refused: list[Exception] = []
    submission = Submission(1, "t1", "test", Event())
    submission.refused = refused.append
    bench.engine.submit([submission])
    bench.engine.pump()
    assert [type(error) for error in refused] == [Elsewhere]
    assert bench.rows() == []


def test_a_flow_that_is_called_and_not_here_yet_is_waited_for(bench: Bench) -> None:
    bench.deploy(1, flow(node("call", "subflow", {"flow": "called"})))
    bench.deploy(2, flow(compute("a", "41 + 1")), "called")
    homes = at_home(bench, 1)
    done = bench.submit()
    bench.engine.pump()
    assert not done
    homes.add(2)
    bench.turn(lambda: bool(done), COMING + 10)
    assert (done[0].state, done[0].output()) == (RunState.SUCCEEDED, 42)


def test_a_run_that_is_let_go_leaves_the_journal_as_it_is(bench: Bench) -> None:
    bench.deploy(1, flow(node("wait", "delay", {"for": "1h"})))
    bench.submit()
    bench.engine.pump()
    (run,) = bench.engine.runs.values()
    before = bench.rows()
    bench.engine.let_go(run)
    bench.engine.commit()
    assert bench.rows() == before
    assert (len(bench.engine.runs), len(bench.engine.flows[1].active), bench.engine.keeper.waiting) == (0, 0, 0)
    assert bench.recover() == 1  # and whoever reads it goes on with the run
    assert [run.state for run in bench.engine.runs.values()] == [RunState.WAITING]


def test_values_that_come_from_another_kernel_replace_ours(bench: Bench) -> None:
    states = bench.services.states
    states.apply(1, {"old": 1, "kept": 1})
    states.apply(2, {"other": 1})
    states.replace(1, {"kept": 2})
    assert states.of(1) == {"kept": 2}
    assert [op.flow for op in states.take_changed()[0]] == [2]
