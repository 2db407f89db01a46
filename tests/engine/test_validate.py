"""Validation: every fault with its place and its mend, all at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from appliance.engine.flow import is_old, modernize
from appliance.engine.plan import plan_flow
from appliance.engine.validate import find_cycle, validate
from appliance.registry import Registry
from tests.support.bench_engine import AnyWorld
from tests.support.flows import compute, edges, flow, node

REGISTRY = Registry().scan()


class BareWorld(AnyWorld):
    def flow_exists(self, flow: str) -> bool:
        return False


def faults(raw: Any) -> dict[str, str]:
    return {problem.path: problem.message for problem in validate(raw, REGISTRY, BareWorld())}


def test_a_good_flow_has_none() -> None:
    good = flow(
        compute("a", "payload"),
        node("c", "condition", {"when": "payload > 1"}),
        node("l", "log"),
        links=edges("a>c", "c>l>true"),
    )
    assert not faults(good)


def test_everything_at_once() -> None:
    raw = {
        "name": "bad",
        "nodes": [
            node("a", "condition", {"when": "payload.t >"}),
            node("c", "transfrm"),
            node("c", "delay", {"for": "2q"}),
            node("d", "transform", {"set": {"x": "{{ foo( }}"}, "bogus": 1}),
            node("e", "subflow", {"flow": "zz"}),
            node("f", "switch"),
            node("g", "log", {"level": "loud"}),
            node("h", "http_request", {"url": "ftp://x"}),
        ],
        "edges": edges("a>zz", "a>c>nope", "c>d", "d>c"),
        "triggers": [{"id": "t", "type": "mqt"}, {"id": "t", "type": "manual", "config": {"inputs": 3}}],
        "setings": {},
    }
    found = faults(raw)
    assert "did you mean 'settings'" in found["setings"]
    assert "unexpected end" in found["nodes[0].config.when"]
    assert "did you mean 'transform'" in found["nodes[1].type"]
    assert "nodes[1]" in found["nodes[2].id"]
    assert "write 90s, 2m" in found["nodes[2].config.for"]
    assert found["nodes[3].config.set.x"]
    assert "no such setting" in found["nodes[3].config.bogus"]
    assert "no flow 'zz'" in found["nodes[4].config.flow"]
    assert found["nodes[5].config.rules"] == "is required"
    assert "loud" in found["nodes[6].config.level"]
    assert "http(s) URL" in found["nodes[7].config.url"]
    assert "no node 'zz'" in found["edges[0].to"]
    assert "it has true, false, error" in found["edges[1].port"]
    assert "c → d → c" in found["edges"]
    assert "triggers[0].type" in found
    assert "triggers[1].id" in found
    assert "triggers[1].config.inputs" in found


@pytest.mark.parametrize("raw", [None, [], 3, "x", {}, {"name": "x"}, {"nodes": 3}, {"nodes": [3]}, {"nodes": []}])
def test_shapes_that_are_no_flow(raw: Any) -> None:
    assert faults(raw)


@pytest.mark.parametrize("value", [3, None, [1], {"x": 1}])
@pytest.mark.parametrize("key", ["nodes", "edges", "triggers", "settings", "name", "tags", "spec"])
def test_any_wrong_type_is_a_fault_and_no_crash(key: str, value: Any) -> None:
    found = faults({**flow(compute("a", "payload")), key: value})
    assert found
    assert all(path.startswith(key) for path in found)


def test_bodies_are_validated_too() -> None:
    body = {"nodes": [compute("s", "payload +"), node("t", "nope")], "edges": edges("s>u")}
    found = faults(flow(node("f", "for_each", {"items": "payload", "body": body})))
    assert set(found) == {
        "nodes[0].config.body.nodes[0].config.expression",
        "nodes[0].config.body.nodes[1].type",
        "nodes[0].config.body.edges[0].to",
    }


def test_a_cycle_is_found_in_a_long_chain_without_recursion() -> None:
    names = [f"n{i}" for i in range(20_000)]
    links = {one: [two] for one, two in itertools.pairwise(names)}
    assert find_cycle(names, links) == []
    links[names[-1]] = [names[10_000]]
    cycle = find_cycle(names, links)
    assert cycle[0] == cycle[-1] == "n10000"


def test_old_presets_are_read() -> None:
    old = {
        "preset_name": "Old one",
        "nodes": [
            {"id": "a", "module_id": "log", "name": "Say", "config_values": {"message": "hi"}, "x": 1, "y": 2},
            {"id": "b", "module_id": "condition", "config_values": {"when": "payload"}},
        ],
        "connections": [
            {"source": "a", "target": "b", "source_port_name": "success"},
            {"source": "b", "target": "a2", "sourceHandle": "true"},
        ],
    }
    assert is_old(old)
    modern = modernize(old)
    assert modern["name"] == "Old one"
    assert modern["nodes"][0]["position"] == {"x": 1, "y": 2}
    assert modern["edges"][0] == {"from": "a", "to": "b"}
    assert modern["edges"][1] == {"from": "b", "to": "a2", "port": "true"}
    modern["edges"].pop()
    assert not faults(modern)


def test_a_thousand_nodes_plan() -> None:
    raw = flow(*(compute(f"n{i}", f"payload + {i}") for i in range(1000)))
    assert not faults(raw)
    plan = plan_flow(raw, REGISTRY).graphs[""]
    assert plan.starts == [0]
    assert len(plan.downstream(500)) == 500


def test_groups_are_for_people_and_checked_for_their_form() -> None:
    good = flow(node("a", "log"))
    assert not faults({**good, "groups": [{"id": "g", "name": "All", "nodes": ["a", "gone"], "color": "data"}]})
    twice = {**good, "groups": [{"id": "g", "nodes": ["a"]}, {"id": "g", "nodes": 7}, {"id": "g"}]}
    assert set(faults(twice)) == {"groups[1].nodes", "groups[2].id"}
