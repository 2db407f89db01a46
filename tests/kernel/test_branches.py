"""A step that runs single branches of its own body, or a mixture of these and flows, as child runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from appliance.contracts import Config, Context, Event, Graph, Node, Spawn, Target, Wake
from appliance.engine.states import RunState
from appliance.engine.steps_view import story_of
from appliance.kernel.submission import Submission
from tests.kernel.test_crash import Crash, acts, crash_at
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.probes import probes


class PickConfig(Config, frozen=True):
    body: Graph
    note: Annotated[str, Meta(description="Kept until the branches have ended")] = ""
    patience: float | None = None


class Pick(Node[PickConfig]):
    """Runs for each of the payload's ``[target, item]`` that target with the item; gives what came of it."""

    Config = PickConfig
    inline = True
    has_body = True

    def run(self, ctx: Context, config: PickConfig, payload: Any) -> Any:
        targets = [Target(*(("", name) if name != "other" else (name, ""))) for name, _ in payload]
        ctx.state.set("picked", len(payload))
        until = None if config.patience is None else ctx.now() + config.patience
        return Spawn([item for _, item in payload], targets=targets, memo=config.note, until=until)

    def resume(self, ctx: Context, config: PickConfig, payload: Any, wake: Wake) -> Any:
        told = [result["output"] if result["ok"] else result["error"]["id"] for result in wake.value]
        return {"told": told, "note": wake.memo}


BODY = {
    "nodes": [
        compute("double", "payload * 2"),
        compute("behind", "payload + 1"),
        compute("other_start", "payload * 1000"),
        compute("both", "payload"),
    ],
    "edges": [
        {"from": "double", "to": "behind"},
        {"from": "behind", "to": "both"},
        {"from": "other_start", "to": "both"},
    ],
}


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(extra=probes() | {"pick": Pick()})


def test_one_branch_of_a_body_runs_and_the_others_do_not(bench: Bench) -> None:
    bench.deploy(1, flow(node("p", "pick", {"body": BODY})))
    bench.deploy(2, flow(compute("s", "payload ~ '!'")), "other")
    assert bench.run([["double", 4], ["other_start", 4], ["other", "hi"]]).output()["told"] == [9, 4000, "hi!"]
    child = next(run for run, _ in bench.rows() if run.place)
    row, records = next((row, records) for row, records in bench.rows() if row.id == child.id)
    assert len(records) == 3
    assert bench.services.states.of(1)["picked"] == 3
    assert row.state == RunState.SUCCEEDED


def test_what_did_not_run_is_told_as_skipped(bench: Bench) -> None:
    bench.deploy(1, flow(node("p", "pick", {"body": BODY})))
    bench.run([["double", 4]])
    plan = bench.engine.plan(1).graphs["p"]
    ((row, records),) = [(row, records) for row, records in bench.rows() if row.place]
    story = story_of(plan, 4, records, event={"start": "double"}, place=row.place, ended=True)
    assert [step.state for step in story.steps] == ["done", "done", "skipped", "done"]
    assert story.output == 9


@pytest.mark.parametrize("target", ["nobody", "behind", "both"])
def test_only_a_first_node_can_be_begun_with(bench: Bench, target: str) -> None:
    bench.deploy(1, flow(node("p", "pick", {"body": BODY})))
    assert bench.run([[target, 1], ["double", 1]]).output()["told"] == ["not-found", 3]


def test_nobody_waits_longer_than_said(bench: Bench) -> None:
    body = {"nodes": [node("h", "hanging"), compute("quick", "payload")]}
    bench.deploy(1, flow(node("p", "pick", {"body": body, "patience": 0.05})))
    assert bench.run([["quick", 1], ["h", 2]]).output()["told"] == [1, "timed-out"]
    assert bench.registry.nodes["hanging"].ended.wait(5)  # type: ignore[attr-defined]
    assert "cancelled" in bench.states()


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("crash", range(1, 7))
def test_branches_survive_a_crash_at_any_commit(tmp_path: Path, crash: int, behind: bool) -> None:
    world: list[str] = []
    body = {"nodes": [node("o", "once"), compute("s", "payload * 10"), compute("t", "payload")], "edges": []}
    body["edges"] = [{"from": "o", "to": "s"}]
    # Long enough to be put aside as a blob beside the record.
    shape = flow(node("p", "pick", {"body": body, "note": "n" * 100_000}))
    first = Bench(tmp_path, {**acts(world), "pick": Pick()})
    first.deploy(1, shape)
    crash_at(first, crash, behind)
    event = Event(payload=[["o", 1], ["t", 5], ["o", 2]], id="e", unique=True)
    try:
        first.engine.submit([Submission(1, "t1", "test", event)])
        first.engine.pump()
        first.turn(lambda: not first.engine.runs, limit=5)
    except Crash:
        pass
    first.die()
    again = Bench(tmp_path, {**acts(world), "pick": Pick()})
    again.deploy(1, shape)
    again.recover()
    while any(run.parked for run in again.engine.runs.values()):
        for run in list(again.engine.runs.values()):
            for index in list(run.parked):
                again.engine.steps.decide(run, index, "skip", "test")
        again.engine.pump()
    again.engine.submit([Submission(1, "t1", "test", event)])
    again.engine.pump()
    assert not again.engine.runs
    assert len(world) == len(set(world)), "a once effect happened twice"
    ((row, records),) = [(row, records) for row, records in again.rows() if row.parent is None]
    assert row.state == RunState.SUCCEEDED
    output = again.engine.keeper.unpack(records[-1].value)
    assert output == {"told": [10, 5, 20], "note": "n" * 100_000}
    again.die()
