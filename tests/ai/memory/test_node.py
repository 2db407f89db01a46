"""The memory node in a real engine: once per step, also over a crash, and what it gives to the steps behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Event
from appliance.engine.states import RunState
from appliance.kernel.memory import MemoryService
from appliance.kernel.submission import Submission
from appliance.nodes.memory import Memory
from tests.ai.memory.embedder import Embedder
from tests.kernel.test_crash import Crash, crash_at
from tests.support.bench_engine import AnyWorld, Bench
from tests.support.flows import compute, flow, node
from tests.support.house import House

KEEP = node("keep", "memory", {"text": "The pump of {{ payload }} ran dry", "outcome": "solved", "tags": ["pump"]})
LOOK = node("look", "memory", {"action": "recall", "text": "water"})


class Remembering(Bench):
    """A bench with a memory."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        models = Embedder()
        self.memory = MemoryService(
            data, sync=False, clean=self.engine.keeper.clean, models=lambda: models, wall=self.clock
        )
        self.services.models = lambda ctx: models
        self.services.memory = self.memory.for_step

    def die(self) -> None:
        super().die()
        self.memory.close()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[[], Remembering]]:
    made: list[Remembering] = []

    def make() -> Remembering:
        made.append(Remembering(tmp_path))
        return made[-1]

    yield make
    for bench in made:
        bench.die()


def test_what_one_flow_remembers_another_recalls(make_bench: Callable[[], Remembering]) -> None:
    bench = make_bench()
    bench.deploy(1, flow(KEEP))
    bench.deploy(2, flow(LOOK, compute("t", "payload.text")))
    bench.run("the cellar")
    run = bench.run("x", num=2)
    assert run.output() == "- The pump of the cellar ran dry (solved)"
    assert bench.run("x", num=2).state is RunState.SUCCEEDED


def test_a_recall_that_finds_nothing_has_a_port_of_its_own(make_bench: Callable[[], Remembering]) -> None:
    bench = make_bench()
    bench.deploy(1, flow(LOOK, compute("n", "'none'"), links=[{"from": "look", "to": "n", "port": "nothing"}]))
    assert bench.run("x").output() == "none"


def test_age_bounds_each_of_the_three(make_bench: Callable[[], Remembering]) -> None:
    bench = make_bench()
    shapes = [
        flow(KEEP),
        flow(node("look", "memory", {"action": "recall", "text": "pump", "age": "1h"})),
        flow(node("f", "memory", {"action": "forget", "age": "3h"})),
        flow(node("keep", "memory", {"text": "pump for an hour", "age": "1h"})),
    ]
    for number, shape in enumerate(shapes, 1):
        bench.deploy(number, shape)
    bench.run("here")
    bench.run("x", num=4)
    assert len(bench.run("x", num=2).output()["episodes"]) == 2
    bench.pass_time(7200)
    assert bench.run("x", num=2).output()["episodes"] == []
    assert bench.run("x", num=3).output() == {"forgotten": 0}
    bench.pass_time(7200)
    assert bench.run("x", num=3).output() == {"forgotten": 2}


@pytest.mark.parametrize(
    ("config", "path"),
    [({}, "text"), ({"action": "forget"}, "action"), ({"action": "forget", "tags": []}, "action")],
)
def test_what_is_missing_is_told(config: dict[str, Any], path: str) -> None:
    assert [fault.path for fault in Memory().check(config, AnyWorld())] == [path]  # type: ignore[arg-type]
    assert list(Memory().check({"action": "forget", "keep": 0}, AnyWorld())) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("crash", range(1, 5))
def test_a_step_remembers_once_over_a_crash(make_bench: Callable[[], Remembering], crash: int, behind: bool) -> None:
    shape = flow(KEEP, compute("z", "payload.id"))
    event = Event(payload="the cellar", id="e", unique=True)
    first = make_bench()
    first.deploy(1, shape)
    crash_at(first, crash, behind)
    try:
        first.engine.submit([Submission(1, "t1", "test", event)])
        first.turn(lambda: not first.engine.runs)
    except Crash:
        pass
    first.die()
    again = make_bench()
    again.deploy(1, shape)
    again.deploy(2, flow(node("look", "memory", {"action": "recall", "limit": 100})))
    again.recover()
    again.engine.submit([Submission(1, "t1", "test", event)])
    again.turn(lambda: not again.engine.runs)
    found = again.run("x", num=2).output()["episodes"]
    assert [episode["text"] for episode in found] == ["The pump of the cellar ran dry"]
    assert abs(found[0]["time"] - time.time()) < 600


def test_a_secret_of_the_engine_never_goes_in(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.secret("token", "hunter2-planted")
        keep = node("k", "memory", {"text": "The key is {{ secrets.token }}", "data": {"key": "{{ secrets.token }}"}})
        kept = house.deploy({"name": "Keeps", "nodes": [keep]})
        look = house.deploy({"name": "Looks", "nodes": [node("l", "memory", {"action": "recall", "text": "key"})]})
        assert house.start(kept, "manual")["state"] == "succeeded"
        (found,) = house.start(look, "manual")["output"]["episodes"]
        assert found["text"].startswith("The key is ")
    assert b"hunter2" not in b"".join(path.read_bytes() for path in tmp_path.glob("memory.db*"))
