"""The rules by which a run moves through its graph, held against a slow and obvious model of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine import trace
from appliance.engine.plan import plan_flow
from appliance.engine.runner import DEAD, READY, SETTLED, Walk, recover
from appliance.engine.trace import Record
from appliance.registry import Registry
from tests.support.flows import flow, node

REGISTRY = Registry().scan()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, str], dict[str, bool]]:
    """A DAG of conditions; which way each goes; which join at the first edge."""
    count = draw(st.integers(1, 8))
    names = [f"n{i}" for i in range(count)]
    ways = {name: draw(st.sampled_from(["true", "false"])) for name in names}
    joins = {name: draw(st.booleans()) for name in names}
    links = [
        {"from": names[i], "to": names[j], "port": port}
        for j in range(count)
        for i in range(j)
        for port in ("true", "false")
        if draw(st.integers(0, 3)) == 0
    ]
    nodes = [node(name, "condition", {"when": "payload"}, join="any" if joins[name] else "all") for name in names]
    return flow(*nodes, links=links), ways, joins


def model(raw: dict[str, Any], ways: dict[str, str]) -> set[str]:
    """Which nodes run: those without incoming edges, and those that a fired edge leads to."""
    runs: set[str] = set()
    for entry in raw["nodes"]:
        incoming = [edge for edge in raw["edges"] if edge["to"] == entry["id"]]
        if not incoming or any(edge["from"] in runs and ways[edge["from"]] == edge["port"] for edge in incoming):
            runs.add(entry["id"])
    return runs


def never(compiled: Any, value: Any) -> bool:
    raise AssertionError("there are no conditions on edges here")


@given(case=graphs(), order=st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_walk_agrees_with_the_model(case: Any, order: Any) -> None:
    raw, ways, _ = case
    plan = plan_flow(raw, REGISTRY).graphs[""]
    walk = Walk(plan, None)
    ready = walk.start()
    ran: list[str] = []
    records: list[Record] = []
    while ready:
        index = ready.pop(order.randrange(len(ready)))
        name = plan.nodes[index].id
        ran.append(name)
        records.append(Record(trace.DONE, index, 1, 0, 0, ways[name], name))
        ready += walk.settle(index, ways[name], name, never)
    assert len(ran) == len(set(ran))
    assert set(ran) == model(raw, ways)
    assert walk.finished
    assert set(walk.status) <= {SETTLED, DEAD}
    _recovers(plan, records, walk, order.randrange(len(records) + 1))


def _recovers(plan: Any, records: list[Record], whole: Walk, cut: int) -> None:
    """From any prefix of the journal the walk goes on to the same end."""
    walk = Walk(plan, None)
    assert recover(walk, records[:cut], never) == {}
    later = {record.node: record for record in records}
    ready = [index for index, status in enumerate(walk.status) if status == READY]
    while ready:
        index = ready.pop()
        ready += walk.settle(index, later[index].port, later[index].value, never)
    assert walk.finished
    assert walk.outputs == whole.outputs
    assert bytes(walk.status) == bytes(whole.status)


@given(case=graphs(), which=st.integers(0, 7))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_replay_from_any_node_ends(case: Any, which: int) -> None:
    raw, ways, _ = case
    plan = plan_flow(raw, REGISTRY).graphs[""]
    first = Walk(plan, None)
    ready = first.start()
    settled: dict[int, Record] = {}
    while ready:
        index = ready.pop(0)
        name = plan.nodes[index].id
        settled[index] = Record(trace.SEEDED, index, 1, 0, 0, ways[name], name)
        ready += first.settle(index, ways[name], name, never)
    start = which % len(plan.nodes)
    again = Walk(plan, None)
    again.overrides[start] = "edited"
    kept = again.kept_before(settled, start)
    assert recover(again, kept, never) == {}
    assert again.payload_of(start) == "edited"
    assert again.status[start] == READY
    ready = [index for index, status in enumerate(again.status) if status == READY]
    while ready:
        index = ready.pop()
        ready += again.settle(index, ways[plan.nodes[index].id], "new", never)
    assert again.finished
    assert all(again.outputs[record.node] == record.value for record in kept)
