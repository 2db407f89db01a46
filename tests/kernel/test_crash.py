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

from appliance.contracts import Context, Effect, Event, Node
from appliance.engine.states import RunState
from appliance.kernel.submission import Submission
from appliance.store.journal import Batch
from tests.support.bench_engine import Bench
from tests.support.databases import emptied
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
        self.world.append(f"{self.chosen}:{ctx.event['id']}:{ctx.event.get('index')}:{ctx.node}")
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


def send(bench: Bench, payloads: list[Any]) -> set[int]:
    """Hand events in as a sender that repeats what was not acknowledged; returns which were."""
    acknowledged: set[int] = set()
    try:
        for number, payload in enumerate(payloads):
            submission = Submission(1, "t1", "test", Event(payload=payload, id=f"e{number}", unique=True))
            submission.committed = lambda run, number=number: acknowledged.add(number)
            bench.engine.submit([submission])
            bench.engine.pump()
        bench.turn(lambda: not bench.engine.runs, limit=5)
    except Crash:
        pass
    return acknowledged


def crash_and_finish(
    folder: Path, shape: dict[str, Any], world: list[str], payloads: list[Any], crash: int, behind: bool
) -> Any:
    """Die once, recover, skip what is unverified, send again; returns the rows."""
    first = Bench(folder, acts(world))
    first.deploy(1, shape)
    crash_at(first, crash, behind)
    acknowledged = send(first, payloads)
    first.die()
    again = Bench(folder, acts(world))
    again.deploy(1, shape)
    again.recover()
    assert len([row for row, _ in again.rows() if row.parent is None]) >= len(acknowledged)
    while any(run.parked for run in again.engine.runs.values()):
        for run in list(again.engine.runs.values()):
            for index, parked in list(run.parked.items()):
                assert parked.unverified
                again.engine.steps.decide(run, index, "skip", "test")
        again.engine.pump()
    assert send(again, payloads) == set(range(len(payloads)))
    assert not again.engine.runs
    counter = again.services.states.of(1).get("n")
    rows = again.rows()
    again.die()
    return rows, counter


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """A random DAG of pure, idempotent and once steps."""
    count = draw(st.integers(2, 6))
    nodes = [node(f"n{i}", draw(st.sampled_from(["pure", "idempotent", "once"]))) for i in range(count)]
    links = [{"from": f"n{i}", "to": f"n{j}"} for j in range(1, count) for i in range(j) if draw(st.booleans())]
    return flow(*nodes, links=links)


@pytest.mark.timeout(240)  # a hundred and fifty engines: 15 s where nothing else runs
@given(shape=shapes(), crash=st.integers(1, 8), behind=st.booleans(), policy=st.sampled_from(["ask", "skip", "retry"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
def test_a_crash_at_any_commit(shape: dict[str, Any], crash: int, behind: bool, policy: str) -> None:
    crash_anywhere(shape, crash, behind, policy)


@given(shape=shapes(), crash=st.integers(1, 8), behind=st.booleans(), policy=st.sampled_from(["ask", "skip", "retry"]))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_a_crash_at_any_commit_on_postgres(
    database_url: str, shape: dict[str, Any], crash: int, behind: bool, policy: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWORK_DATABASE_URL", database_url)
        try:
            crash_anywhere(shape, crash, behind, policy)
        finally:
            emptied(database_url)


def crash_anywhere(shape: dict[str, Any], crash: int, behind: bool, policy: str) -> None:
    world: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        shape = {**shape, "settings": {"on_crash": policy}}
        rows, _ = crash_and_finish(Path(folder), shape, world, [1, 2], crash, behind)
    assert [row.state for row, _ in rows] == [RunState.SUCCEEDED] * 2
    once = [entry for entry in world if entry.startswith("once")]
    idempotent = {entry for entry in world if entry.startswith("idempotent")}
    kinds = [entry["type"] for entry in shape["nodes"]]
    if policy == "retry":
        assert len(set(once)) == 2 * kinds.count("once")
    else:
        assert len(once) == len(set(once)), "a once effect happened twice"
    assert len(idempotent) == 2 * kinds.count("idempotent")


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("crash", range(1, 7))
def test_families_survive(place: str, tmp_path: Path, crash: int, behind: bool) -> None:
    world: list[str] = []
    body = {"nodes": [node("o", "once"), compute("s", "payload * 10")], "edges": [{"from": "o", "to": "s"}]}
    each = node("f", "for_each", {"items": "payload", "concurrency": 2, "body": body})
    shape = flow(each, compute("z", "payload | sum"))
    rows, _ = crash_and_finish(tmp_path, shape, world, [[1, 2, 3]], crash, behind)
    assert len(world) == len(set(world))
    ((parent, records),) = [(row, records) for row, records in rows if row.parent is None]
    assert parent.state == RunState.SUCCEEDED
    assert records[-1].value == 60
    assert len(rows) == 4


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("crash", range(1, 6))
def test_a_counter_counts_every_event_once(place: str, tmp_path: Path, crash: int, behind: bool) -> None:
    shape = flow(node("n", "state", {"action": "increment", "key": "n"}), node("o", "idempotent"))
    rows, counter = crash_and_finish(tmp_path, shape, [], [1, 2, 3], crash, behind)
    assert len(rows) == counter == 3


@pytest.mark.parametrize(("decision", "expected"), [("retry", 2), ("skip", 1), ("fail", 1)])
def test_an_unverified_step_asks_and_obeys(place: str, tmp_path: Path, decision: str, expected: int) -> None:
    world: list[str] = []
    folder = tmp_path / decision
    first = Bench(folder, acts(world))
    first.deploy(1, flow(node("o", "once"), compute("z", "'end'")))
    crash_at(first, 2, behind=False)
    send(first, [1])
    first.die()
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
