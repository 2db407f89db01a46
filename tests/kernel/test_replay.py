"""Running again from any step: what led there is taken over, what comes behind is done anew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Event
from appliance.engine import trace
from appliance.engine.states import Letter
from appliance.kernel.client import Refused
from appliance.store.history import RunFilter
from appliance.store.runids import to_text
from tests.support.flows import compute, edges, flow, node
from tests.support.kernels import LocalKernel, wait_for

Values = dict[str, Any]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[LocalKernel]:
    made = LocalKernel(tmp_path / "FloworkData")
    made.settings(durability="process")
    yield made
    made.close()


def outcome(house: LocalKernel, run: str) -> Any:
    """A run's end and what its steps gave, by node id."""
    state = wait_for(lambda: (found := house.detail(run)).head.state >= 10 and found)
    assert house.kernel is not None
    loaded = house.on_engine(lambda: fold(house, run))
    return state.head.state, loaded


def fold(house: LocalKernel, run: str) -> Values:
    from appliance.store.runids import from_text

    kernel = house.kernel
    assert kernel is not None
    loaded = kernel.journal.load(from_text(run))
    assert loaded is not None
    row, chunks = loaded
    slot = kernel.engine.slot(row.flow)
    assert slot is not None
    walk = kernel.recovery.restore(slot, row, chunks).walk
    kernel.recovery._open.clear()
    return {walk.plan.nodes[index].id: value for index, value in walk.outputs.items()}


def random_flow(rng: random.Random) -> dict[str, Any]:
    """A DAG of steps that tell what came in, with conditions here and there."""
    count = rng.randint(3, 7)
    nodes = [compute(f"n{i}", f"[{i}, payload]") for i in range(count)]
    links: list[dict[str, str]] = []
    for target in range(1, count):
        for source in range(target):
            if rng.random() < 0.45:
                link = {"from": f"n{source}", "to": f"n{target}"}
                if rng.random() < 0.3:
                    link["condition"] = rng.choice(["payload[0] % 2 == 0", "payload[0] >= 0", "false"])
                links.append(link)
    return flow(*nodes, links=links, settings={"max_runs": 100})


def expected(shape: dict[str, Any], before: Values, start: str, payload: Any, original: Any) -> Values:
    """What a replay from ``start`` must give, worked out the plain way: node by node in order."""
    order = [one["id"] for one in shape["nodes"]]
    behind = {start}
    for name in order:
        if any(link["from"] in behind and link["to"] == name for link in shape["edges"]):
            behind.add(name)
    outputs: Values = {}
    for number, name in enumerate(order):
        if name not in behind:
            if name in before:
                outputs[name] = before[name]
            continue
        incoming = [link for link in shape["edges"] if link["to"] == name]
        live = [link["from"] for link in incoming if fires(link, outputs)]
        if name == start:
            outputs[name] = [number, payload]
        elif not incoming:
            outputs[name] = [number, original]
        elif live:
            came = {source: outputs[source] for source in dict.fromkeys(live)}
            outputs[name] = [number, next(iter(came.values())) if len(came) == 1 else came]
    return outputs


def fires(link: dict[str, str], outputs: Values) -> bool:
    if link["from"] not in outputs:
        return False
    value = outputs[link["from"]]
    match link.get("condition", ""):
        case "payload[0] % 2 == 0":
            return bool(value[0] % 2 == 0)
        case "false":
            return False
    return True


@pytest.mark.parametrize("seed", range(6))
def test_from_every_step_of_random_graphs(house: LocalKernel, seed: int) -> None:
    rng = random.Random(seed)
    shape = random_flow(rng)
    num = house.deploy(shape)
    house.start()
    first = house.submit(num, "P", wait=10)["run"]
    _, before = outcome(house, first)
    for one in shape["nodes"]:
        start = one["id"]
        state, after = outcome(house, replay(house, first, start, payload="EDITED"))
        assert state == 10
        assert after == expected(shape, before, start, "EDITED", "P"), (start, shape["edges"])
        if start in before:
            assert outcome(house, replay(house, first, start))[1] == before
    assert outcome(house, replay(house, first))[1] == before


def replay(house: LocalKernel, run: str, start: str = "", **more: Any) -> str:
    answer = house.client.call("replay", **{"run": run, "from": start, **more})
    return str(answer["run"])


LINE = flow(compute("a", "payload ~ 'a'"), compute("b", "payload ~ 'b'"), compute("c", "payload ~ 'c'"))


def test_a_replay_of_a_replay(house: LocalKernel) -> None:
    num = house.deploy(LINE)
    house.start()
    first = house.submit(num, "P", wait=10)["run"]
    second = replay(house, first, "b", payload="X")
    assert outcome(house, second)[1] == {"a": "Pa", "b": "Xb", "c": "Xbc"}
    third = replay(house, second, "c", payload="Y")
    assert outcome(house, third)[1] == {"a": "Pa", "b": "Xb", "c": "Yc"}
    assert outcome(house, replay(house, second, "b"))[1] == {"a": "Pa", "b": "Xb", "c": "Xbc"}
    assert outcome(house, replay(house, third))[1] == {"a": "Pa", "b": "Pab", "c": "Pabc"}
    assert house.detail(third).head.origin == house.detail(second).head.id


def test_with_a_version_that_has_changed_since(house: LocalKernel) -> None:
    num = house.deploy(LINE)
    house.start()
    first = house.submit(num, "P", wait=10)["run"]
    changed = flow(
        compute("a", "payload ~ 'A'"),
        compute("x", "payload ~ 'x'"),
        compute("b", "payload ~ 'B'"),
        compute("z", "payload ~ 'z'"),
    )
    redeploy(house, num, changed)
    live = replay(house, first, "b", version="live")
    assert outcome(house, live)[1]["b"] == "PaB"
    assert outcome(house, live)[1]["z"] == "PaBz"
    assert outcome(house, replay(house, first, "b"))[1] == {"a": "Pa", "b": "Pab", "c": "Pabc"}
    with pytest.raises(Refused, match="no step 'c'"):
        replay(house, first, "c", version="live")
    with pytest.raises(Refused, match="no step 'z'"):
        replay(house, first, "z")
    assert outcome(house, replay(house, first, "z", version="live", payload="Q"))[1]["z"] == "Qz"


def redeploy(house: LocalKernel, num: int, shape: dict[str, Any]) -> None:
    from appliance.store.metadata import open_store

    store = open_store(house.data)
    name = store.flows.by_num(num).id
    store.close()
    house.deploy(shape, name)
    house.client.call("reload")


def test_a_child_run_and_what_it_was_given(house: LocalKernel) -> None:
    body = {"nodes": [compute("x", "payload * 2"), compute("y", "payload + 1")], "edges": edges("x>y")}
    num = house.deploy(flow(node("f", "for_each", {"items": "payload", "body": body})))
    house.start()
    assert house.submit(num, [1, 2], wait=10)["output"] == [3, 5]
    child = house.history.page(RunFilter(children=True)).items[0]
    assert child.parent is not None
    again = replay(house, to_text(child.id), "y", payload=10)
    assert outcome(house, again)[1]["y"] == 11
    assert house.detail(again).head.parent is None
    assert house.states().count("succeeded") == 2


def test_large_values_are_taken_over(house: LocalKernel) -> None:
    num = house.deploy(flow(compute("a", "payload * 100000"), compute("b", "payload | length")))
    house.start()
    first = house.submit(num, "xyz", wait=10)["run"]
    again = replay(house, first, "b")
    assert outcome(house, again)[1]["b"] == 300_000
    assert outcome(house, replay(house, again, "b"))[1]["b"] == 300_000


def test_a_dead_event_and_a_failed_run_leave_the_letters(house: LocalKernel) -> None:
    num = house.deploy(
        flow(compute("a", "10 / payload"), triggers=[{"id": "t1", "type": "schedule", "config": {"every": "1h"}}])
    )
    house.start()
    failed = house.submit(num, 0, wait=10)["run"]
    assert house.detail(failed).head.letter == Letter.OPEN
    dead: list[str] = []
    assert house.kernel is not None
    hosted = house.kernel.hosting.get(num, "t1")
    assert hosted is not None
    hosted.dead_letter(Event(payload=5, id="p"), "it makes no sense", dead.append)
    wait_for(lambda: dead)
    assert outcome(house, replay(house, dead[0]))[1] == {"a": 2.0}
    assert outcome(house, replay(house, failed, "a", payload=2, by="ann"))[1] == {"a": 5.0}
    wait_for(lambda: house.detail(failed).head.letter == Letter.REPLAYED)
    assert house.detail(dead[0]).head.letter == Letter.REPLAYED


def test_a_replay_that_cannot_begin_fails_visibly_and_leaves_nothing(house: LocalKernel) -> None:
    links = [{"from": "a", "to": "b", "condition": "payload.x > 1"}]
    num = house.deploy(flow(compute("a", "payload"), compute("b", "1"), links=links))
    house.start()
    first = house.submit(num, {"x": 2}, wait=10)["run"]
    links[0]["condition"] = "payload.y > 1"
    redeploy(house, num, flow(compute("a", "payload"), compute("b", "1"), links=links))
    again = replay(house, first, "b", version="live")
    state, _ = outcome(house, again)
    assert state == 11
    assert house.client.call("status")["runs"] == 0
    for run in ("", "nonsense", "0000000000001"):
        with pytest.raises(Refused):
            house.client.call("replay", run=run)


def test_a_replay_that_is_cut_off_goes_on_where_it_was(house: LocalKernel) -> None:
    nodes = (
        compute("a", "payload ~ 'a'"),
        compute("b", "payload ~ 'b'"),
        node("d", "delay", {"for": "1s"}),
        compute("c", "payload ~ 'c'"),
    )
    side = [{"from": "a", "to": "s", "condition": "vars.nothing is defined or payload"}]
    num = house.deploy(flow(*nodes, compute("s", "payload ~ 's'"), links=[*edges("a>b", "b>d", "d>c"), *side]))
    house.start()
    first = house.submit(num, "P", wait=10)["run"]
    again = replay(house, first, "b", payload="X")
    wait_for(lambda: house.detail(again).head.state == 2)
    house.stop()
    seeds = [record for record in house.detail(again).records if record.kind == trace.SEEDED]
    assert seeds[0].value == "Pa"
    house.start()
    state, values = outcome(house, again)
    assert state == 10
    assert values == {"a": "Pa", "s": "Pas", "b": "Xb", "d": "Xb", "c": "Xbc"}
