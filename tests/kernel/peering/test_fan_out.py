"""One task for several engines: gathered, reduced, ended early, told of failures, gone on with behind a kill."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts import Config, Context, Node, NodeError
from appliance.engine.states import RunState
from tests.kernel.peering.conftest import House
from tests.kernel.peering.test_placement import finished
from tests.support.bench_engine import AnyWorld
from tests.support.flows import compute, flow, node
from tests.support.peer_net import PeerBench, turn
from tests.support.probes import Hanging


class Say(Node[Config]):
    """Says what its engine was told to say."""

    Config = Config

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    async def run(self, ctx: Context, config: Config, payload: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def three(house: House, *answers: Any) -> list[PeerBench]:
    names = ("pi", "laptop", "desk")
    made = []
    for name, answer in zip(names, answers, strict=True):
        say = answer if isinstance(answer, Node) else Say(answer)
        made.append(house.engine(name, {"say": say}))
    return made


def deploy(bench: PeerBench, body: dict[str, Any]) -> None:
    """In place of what was there."""
    bench.engine._plans.clear()
    bench.deploy(1, body)


def fan(**config: Any) -> dict[str, Any]:
    return flow(node("f", "fan_out", {"body": {"nodes": [node("s", "say")]}, **config}))


def test_all_of_them(house: House) -> None:
    benches = three(house, 1, 2, 3)
    deploy(benches[0], fan())
    run = finished(benches, benches[0])
    assert [(each["engine"], each["output"]) for each in run.output()] == [("pi", 1), ("laptop", 2), ("desk", 3)]
    children = [row for row, _ in benches[0].rows() if row.parent == run.id]
    assert len(children) == 3, "each branch is a run of its own here"
    assert len(benches[1].rows()) == len(benches[2].rows()) == 1


def test_a_flow_and_what_stays_at_home(house: House) -> None:
    benches = three(house, 1, 2, 3)
    pi = benches[0]
    pi.deploy(2, flow(compute("x", "{'n': payload + 1}"), node("s", "say")), "task")
    deploy(pi, flow(node("f", "fan_out", {"flow": "task", "to": ["others"], "input": 5, "reduce": "merge"})))
    run = finished(benches, pi)
    assert run.output() == {"laptop": 2, "desk": 3}
    assert all(len(bench.rows()) == 1 for bench in benches[1:]), "the transform was done here"


def test_the_first_one_ends_the_others(house: House) -> None:
    hanging = Hanging()
    benches = three(house, hanging, hanging, "quick")
    deploy(benches[0], fan(gather="any", reduce="first"))
    done = benches[0].submit(1)
    turn(benches, lambda: bool(done))
    assert done[0].output() == "quick"
    turn(benches, lambda: not benches[1].engine.runs)
    assert benches[1].states() == ["cancelled"]


def test_a_quorum_and_its_vote(house: House) -> None:
    benches = three(house, "yes", NodeError("broken", retryable=False), "yes")
    deploy(benches[0], fan(gather="quorum", quorum=2, reduce="vote"))
    run = finished(benches, benches[0])
    assert run.output() == "yes"
    deploy(benches[0], fan(gather="quorum", quorum=3, reduce="vote"))
    run = finished(benches, benches[0])
    assert run.state is RunState.FAILED
    assert "2 of 3" in run.error["message"] or "of 3 engines did it, 3 are needed" in run.error["message"]
    assert "at laptop: broken" in run.error["message"]


def test_no_majority(house: House) -> None:
    benches = three(house, 1, 2, 3)
    deploy(benches[0], fan(reduce="vote"))
    run = finished(benches, benches[0])
    assert "there is no majority" in run.error["message"]


def test_failures_are_told(house: House) -> None:
    benches = three(house, 1, NodeError("broken", retryable=False), 3)
    deploy(benches[0], fan(on_error="collect"))
    run = finished(benches, benches[0])
    assert run.output()[1]["error"]["message"] == "at laptop: broken"
    count = "payload | selectattr('output', 'defined') | list | length"
    deploy(benches[0], fan(on_error="collect", reduce="expression", expression=count))
    assert finished(benches, benches[0]).output() == 2
    deploy(benches[0], fan())
    assert "at laptop: broken" in finished(benches, benches[0]).error["message"]


def test_behind_the_deadline_nobody_is_waited_for(house: House) -> None:
    benches = three(house, 1, Hanging(), 3)
    pi, laptop, _ = benches
    deploy(pi, fan(deadline="30s", on_error="collect"))
    done = pi.submit(1)
    probe: Any = laptop.registry.nodes["say"]
    turn(benches, lambda: probe.began.acquire(blocking=False))
    turn(benches, lambda: sum(row.state == RunState.SUCCEEDED for row, _ in pi.rows()) == 2)
    pi.pass_time(31)
    turn(benches, lambda: bool(done))
    assert done[0].output()[1]["error"]["id"] == "timed-out"
    turn(benches, lambda: not laptop.engine.runs)


def test_one_that_is_away_is_waited_for(house: House) -> None:
    benches = three(house, 1, 2, 3)
    pi = benches[0]
    house.net.cut("pi", "laptop")
    deploy(pi, fan(to=["laptop", "desk"]))
    done = pi.submit(1)
    turn(benches, lambda: any(row.state == RunState.SUCCEEDED for row, _ in pi.rows()))
    assert not done
    house.net.join("pi", "laptop")
    turn(benches, lambda: bool(done))
    assert [each["output"] for each in done[0].output()] == [2, 3]
    deploy(pi, fan(to=["all"]))
    house.net.cut("pi", "laptop")
    assert [each["engine"] for each in finished(benches, pi).output()] == ["pi", "desk"], "all that can be asked"


def test_the_asking_engine_is_killed_in_the_middle(house: House) -> None:
    hanging = Hanging()
    benches = three(house, 1, hanging, 3)
    pi, laptop, desk = benches
    deploy(pi, fan(gather="quorum", quorum=3))
    pi.submit(1)
    turn(benches, lambda: hanging.began.acquire(blocking=False))
    turn(benches, lambda: sum(row.state == RunState.SUCCEEDED for row, _ in pi.rows()) == 2)
    asked = {bench.name: bench.registry.nodes["say"].asked for bench in (pi, desk)}  # type: ignore[attr-defined]
    pi = house.again("pi", {"say": pi.registry.nodes["say"]})
    laptop = house.again("laptop", {"say": Say(2)})
    turn([pi, laptop, desk], lambda: not pi.engine.runs)
    row, records = next((row, records) for row, records in pi.rows() if row.parent is None)
    assert row.state == RunState.SUCCEEDED
    output = pi.recovery.told(row, []).output() if not records else records[-1].value
    assert [each["output"] for each in output] == [1, 2, 3]
    now = {bench.name: bench.registry.nodes["say"].asked for bench in (pi, desk)}  # type: ignore[attr-defined]
    assert now == asked, "what was done is not done again"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "body"),
        ({"flow": "x", "gather": "quorum"}, "quorum"),
        ({"flow": "x", "quorum": 2}, "quorum"),
        ({"flow": "x", "reduce": "expression"}, "expression"),
    ],
)
def test_what_is_wrong_with_it(house: House, config: dict[str, Any], path: str) -> None:
    from appliance.nodes.fan_out import FanOut

    assert [problem.path for problem in FanOut().check(config, AnyWorld())] == [path]


def test_too_few_engines(house: House) -> None:
    pi = house.engine("pi", {"say": Say(1)})
    deploy(pi, fan(to=["others"]))
    assert "1 engines are needed, and there are 0 now" in pi.run().error["message"]
    deploy(pi, fan(gather="quorum", quorum=2))
    assert "2 engines are needed, and there are 1 now: pi" in pi.run().error["message"]
