"""The difference of two flows."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.diff import Change, Element, diff


def flow(**extra: Any) -> dict[str, Any]:
    return {
        "name": "Guard",
        "nodes": [
            {"id": "hot", "type": "condition", "config": {"when": "payload.t > 30", "tags": ["a", "b"]}},
            {"id": "say", "type": "notify", "config": {"to": "me"}, "position": {"x": 1, "y": 2}},
        ],
        "edges": [{"from": "hot", "to": "say", "port": "true"}],
        "triggers": [{"id": "t", "type": "mqtt", "config": {"topic": "a/+"}}],
        "settings": {"mode": "parallel"},
        **extra,
    }


def changed_node(config: dict[str, Any], **extra: Any) -> list[Change]:
    new = flow()
    new["nodes"][0] = {"id": "hot", "type": "condition", "config": config, **extra}
    result = diff(flow(), new)
    (element,) = result.nodes.changed
    assert (element.id, element.type) == ("hot", "condition")
    assert not (result.nodes.added or result.nodes.removed or result.settings or result.other)
    return element.changes


def test_a_flow_does_not_differ_from_itself() -> None:
    assert diff(flow(), flow()).empty
    assert diff({}, {}).empty


def test_the_order_of_things_is_no_difference() -> None:
    new = flow()
    new["nodes"].reverse()
    new["nodes"][0] = dict(reversed(new["nodes"][0].items()))
    assert diff(flow(), new).empty


def test_changed_config_is_told_by_path_with_both_values() -> None:
    changes = changed_node({"when": "payload.t > 35", "for": "2m"})
    assert changes == [
        Change("config.when", "changed", "payload.t > 30", "payload.t > 35"),
        Change("config.tags", "removed", ["a", "b"], None),
        Change("config.for", "added", None, "2m"),
    ]


def test_lists_are_told_by_place() -> None:
    when = "payload.t > 30"
    assert changed_node({"when": when, "tags": ["new", "a", "b"]}) == [Change("config.tags[0]", "added", new="new")]
    assert changed_node({"when": when, "tags": ["a"]}) == [Change("config.tags[1]", "removed", old="b")]
    assert changed_node({"when": when, "tags": ["x", "b"]}) == [Change("config.tags[0]", "changed", "a", "x")]


def test_things_with_ids_are_matched_by_them() -> None:
    def loop(nodes: list[dict[str, Any]]) -> dict[str, Any]:
        return flow(nodes=[{"id": "each", "type": "for_each", "config": {"body": {"nodes": nodes}}}])

    inner = [{"id": "a", "config": {"x": 1}}, {"id": "b", "config": {"x": 1}}]
    moved = [{"id": "new"}, {"id": "b", "config": {"x": 2}}, {"id": "a", "config": {"x": 1}}]
    (element,) = diff(loop(inner), loop(moved)).nodes.changed
    assert element.changes == [
        Change("config.body.nodes[b].config.x", "changed", 1, 2),
        Change("config.body.nodes[new]", "added", None, {"id": "new"}),
    ]


def test_nodes_that_come_and_go() -> None:
    new = flow()
    new["nodes"] = [new["nodes"][0], {"id": "log", "type": "log", "config": {}}]
    new["edges"] = [{"from": "hot", "to": "log"}]
    result = diff(flow(), new)
    assert result.nodes.added == [Element("log", "log")]
    assert result.nodes.removed == [Element("say", "notify")]
    assert result.edges_added == [{"from": "hot", "to": "log"}]
    assert result.edges_removed == [{"from": "hot", "to": "say", "port": "true"}]
    assert not result.empty


def test_a_node_that_was_only_moved_is_not_a_changed_one() -> None:
    new = flow()
    new["nodes"][1]["position"] = {"x": 9, "y": 2}
    result = diff(flow(), new)
    assert (result.nodes.moved, result.nodes.changed) == (["say"], [])
    assert not result.empty
    new["nodes"][1]["config"]["to"] = "you"
    (element,) = diff(flow(), new).nodes.changed
    assert {change.path for change in element.changes} == {"position.x", "config.to"}


def test_an_edge_with_its_defaults_written_out_is_the_same() -> None:
    short = flow(edges=[{"from": "hot", "to": "say"}])
    long = flow(edges=[{"to": "say", "from": "hot", "port": "out", "condition": ""}])
    assert diff(short, long).empty
    twice = flow(edges=[{"from": "hot", "to": "say"}] * 2)
    assert diff(short, twice).edges_added == [{"from": "hot", "to": "say"}]


def test_triggers_settings_and_the_flow_itself() -> None:
    new = flow(name="Keeper", settings={"mode": "queued", "max_runs": 2}, tags=["x"])
    new["triggers"][0]["config"]["topic"] = "b/+"
    result = diff(flow(), new)
    assert result.triggers.changed == [
        Element("t", "mqtt", [Change("config.topic", "changed", "a/+", "b/+")]),
    ]
    assert result.settings == [
        Change("mode", "changed", "parallel", "queued"),
        Change("max_runs", "added", new=2),
    ]
    assert result.other == [
        Change("name", "changed", "Guard", "Keeper"),
        Change("tags", "added", new=["x"]),
    ]


def test_values_that_python_takes_for_equal_differ() -> None:
    for old, new in ((1, True), (0, False), (1, 1.0), ("1", 1), (None, False), ([], {})):
        (change,) = diff({"settings": {"x": old}}, {"settings": {"x": new}}).settings
        assert (change.old, change.new) == (old, new)
        assert type(change.new) is type(new)


def test_unusual_keys_are_quoted() -> None:
    paths = [change.path for change in diff({}, {"settings": {"X Api": 1, "a.b": {}, "[0]": 2, "x-y": 3}}).settings]
    assert paths == ['["X Api"]', '["a.b"]', '["[0]"]', "x-y"]


def test_flows_of_any_shape_can_be_compared() -> None:
    odd = {
        "nodes": [{"id": "a"}, {"id": "a", "x": 1}, {"no": "id"}, "text", None],
        "edges": {"a": 1},
        "triggers": "none",
        "settings": [1],
    }
    assert diff(odd, copy.deepcopy(odd)).empty
    assert not diff(odd, flow()).empty
    deep: Any = 1
    for _ in range(400):
        deep = {"a": [deep]}
    (change,) = diff({"settings": deep}, {"settings": {"a": []}}).settings
    assert change.op == "removed"
    assert not diff({"settings": deep}, {"settings": {"a": [{"a": [2]}]}}).empty


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abid", max_size=2), inner, max_size=3),
    max_leaves=12,
)


def apply(old: Any, changes: list[Change]) -> Any:
    """What becomes of ``{"v": old}`` when the changes, all of mappings here, are made."""
    result = copy.deepcopy(old)
    for change in changes:
        *parents, last = change.path.split(".")
        place = result
        for key in parents:
            place = place[key]
        if change.op == "removed":
            assert place.pop(last) == change.old
        else:
            place[last] = change.new
    return result


mappings = st.recursive(
    st.integers(0, 2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


@given(mappings.map(lambda value: {"v": value}), mappings.map(lambda value: {"v": value}))
def test_the_changes_lead_from_one_to_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert apply(old, diff({"settings": old}, {"settings": new}).settings) == new


@given(json_values, json_values)
def test_only_what_is_equal_has_no_difference(old: Any, new: Any) -> None:
    assert diff({"x": old}, {"x": old}).empty
    if repr(old) != repr(new) and old != new:
        assert diff({"x": old}, {"x": new}).empty is _same_by_ids(old, new)


def _same_by_ids(old: Any, new: Any) -> bool:
    """Lists of things with ids may be in another order, at any depth."""
    return _sorted(old) == _sorted(new)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_sorted(item) for item in value]
        ids = [item.get("id") if isinstance(item, dict) else None for item in items]
        unique = all(isinstance(id_, str) and id_ for id_ in ids) and len(set(ids)) == len(ids)
        return sorted(items, key=lambda item: item["id"]) if unique else items
    return value
