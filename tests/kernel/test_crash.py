"""A process that dies at any moment: nothing accepted is lost, no ``once`` effect happens twice.

The crash comes right before or right behind the n-th commit, for every n, in flows of random shape.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.contracts import Context, Effect, Node
from appliance.engine.states import RunState
from appliance.store.journal import Batch
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.probes import ProbeConfig


class Crash(BaseException):
    """The process is gone."""


class Act(Node[ProbeConfig]):
    """An effect on the world outside: a list that outlives every crash."""

    Config = ProbeConfig
    inline = True

    def __init__(self, effect: Effect, world: list[str]) -> None:
        self.chosen = effect
        self.world = world

    def effect_of(self, config: Any) -> Effect:
        return self.chosen

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        self.world.append(f"{self.chosen}:{ctx.idempotency_key}")
        return payload


def acts(world: list[str]) -> dict[str, Node[Any]]:
    return {
        "pure": Act(Effect.PURE, []),
        "idempotent": Act(Effect.IDEMPOTENT, world),
        "once": Act(Effect.ONCE, world),
    }


def crash_at(bench: Bench, number: int, behind: bool) -> None:
    """Let the process die at its n-th commit."""
    commit, count = bench.journal.commit, [0]

    def dying(batch: Batch) -> None:
        count[0] += 1
        if count[0] == number and not behind:
            raise Crash
        commit(batch)
        if count[0] == number:
            raise Crash

    bench.journal.commit = dying  # type: ignore[method-assign]


def run_until_crash(bench: Bench, payloads: list[Any]) -> tuple[int, bool]:
    """How many events were acknowledged, and whether the process died."""
    acknowledged: list[str] = []
    try:
        for payload in payloads:
            from appliance.contracts import Event
            from appliance.kernel.engine import Submission

            submission = Submission(1, "t1", "test", Event(payload=payload))
            submission.committed = acknowledged.append
            bench.engine.submit([submission])
            bench.engine.pump()
        bench.turn(lambda: not bench.engine.runs, limit=5)
    except Crash:
        bench.die()
        return len(acknowledged), True
    bench.die()
    return len(acknowledged), False


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """A random DAG of pure, idempotent and once steps."""
    count = draw(st.integers(2, 6))
    nodes = [node(f"n{i}", draw(st.sampled_from(["pure", "idempotent", "once"]))) for i in range(count)]
    links = [{"from": f"n{i}", "to": f"n{j}"} for j in range(1, count) for i in range(j) if draw(st.booleans())]
    return flow(*nodes, links=links)


@given(shape=shapes(), crash=st.integers(1, 8), behind=st.booleans(), policy=st.sampled_from(["ask", "skip", "retry"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
def test_a_crash_at_any_commit(shape: dict[str, Any], crash: int, behind: bool, policy: str) -> None:
    world: list[str] = []
    shape = {**shape, "settings": {"on_crash": policy}}
    with tempfile.TemporaryDirectory() as folder:
        first = Bench(Path(folder), acts(world))
        first.deploy(1, shape)
        crash_at(first, crash, behind)
        acknowledged, died = run_until_crash(first, [1, 2])
        again = Bench(Path(folder), acts(world))
        again.deploy(1, shape)
        again.recover()
        for run in list(again.engine.runs.values()):
            for index, parked in list(run.parked.items()):
                assert parked.unverified
                again.engine.steps.decide(run, index, "skip", "test")
        again.turn(lambda: not again.engine.runs)
        rows = again.rows()
        again.die()
    assert len(rows) >= acknowledged
    assert all(row.state == RunState.SUCCEEDED for row, _ in rows)
    if not died:
        assert len(rows) == 2
    once = [entry for entry in world if entry.startswith("once")]
    if policy != "retry":
        assert len(once) == len(set(once)), "a once effect happened twice"
    if policy == "retry":
        steps = sum(1 for entry in shape["nodes"] if entry["type"] == "once")
        assert len(set(once)) >= steps * len(rows)
    idempotent = {entry for entry in world if entry.startswith("idempotent")}
    assert len(idempotent) >= len(rows) * sum(1 for entry in shape["nodes"] if entry["type"] == "idempotent")


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("crash", range(1, 7))
def test_families_survive(tmp_path: Path, crash: int, behind: bool) -> None:
    world: list[str] = []
    body = {"nodes": [node("o", "once"), compute("s", "payload * 10")], "edges": [{"from": "o", "to": "s"}]}
    shape = flow(
        node("f", "for_each", {"items": "payload", "concurrency": 2, "body": body}), compute("z", "payload | sum")
    )
    first = Bench(tmp_path, acts(world))
    first.deploy(1, shape)
    crash_at(first, crash, behind)
    acknowledged, _ = run_until_crash(first, [[1, 2, 3]])
    again = Bench(tmp_path, acts(world))
    again.deploy(1, shape)
    again.recover()
    while again.engine.runs:
        for run in list(again.engine.runs.values()):
            for index in list(run.parked):
                again.engine.steps.decide(run, index, "skip", "test")
        again.engine.pump()
    rows = again.rows()
    again.die()
    assert len(world) == len(set(world))
    if acknowledged:
        parents = [(row, records) for row, records in rows if row.parent is None]
        assert len(parents) == 1
        assert parents[0][0].state == RunState.SUCCEEDED
        assert parents[0][1][-1].value == 60
        assert len(rows) == 4


def test_a_counter_counts_every_run_once(tmp_path: Path) -> None:
    shape = flow(node("n", "state", {"action": "increment", "key": "n"}), node("o", "idempotent"))
    for crash in range(1, 6):
        for behind in (False, True):
            folder = tmp_path / f"{crash}{behind}"
            world: list[str] = []
            first = Bench(folder, acts(world))
            first.deploy(1, shape)
            crash_at(first, crash, behind)
            run_until_crash(first, [1, 2, 3])
            again = Bench(folder, acts(world))
            again.deploy(1, shape)
            again.recover()
            again.turn(lambda bench=again: not bench.engine.runs)
            assert again.services.states.of(1).get("n", 0) == len(again.rows())
            again.die()


def test_an_unverified_step_asks_and_obeys(tmp_path: Path) -> None:
    for decision, expected in (("retry", 2), ("skip", 1), ("fail", 1)):
        world: list[str] = []
        folder = tmp_path / decision
        first = Bench(folder, acts(world))
        first.deploy(1, flow(node("o", "once"), compute("z", "'end'")))
        crash_at(first, 2, behind=False)
        run_until_crash(first, [1])
        assert len(world) == 1
        again = Bench(folder, acts(world))
        again.deploy(1, first.flows[1])
        again.recover()
        (run,) = again.engine.runs.values()
        assert run.parked[0].unverified
        assert again.states() == ["waiting"]
        again.engine.steps.decide(run, 0, decision, "ann")
        again.engine.pump()
        assert again.states() == ["failed" if decision == "fail" else "succeeded"]
        assert len(world) == expected
        again.die()
