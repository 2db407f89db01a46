"""What a model is told of the kinds, and the schema that binds its flow."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from appliance.registry import Registry
from appliance.workshop.palette import Palette, bare, example_of, ids_of

REGISTRY = Registry().scan()
PALETTE = Palette(REGISTRY.catalog())
KINDS = [*PALETTE.nodes.values(), *PALETTE.triggers.values()]


def fits(schema: dict[str, Any], value: Any) -> bool:
    return bool(jsonschema_rs.validator_for(schema).is_valid(value))


@pytest.mark.parametrize("entry", KINDS, ids=lambda entry: entry["type"])
def test_the_example_in_the_help_of_every_kind_fits_its_bare_schema(entry: Any) -> None:
    schema = bare(entry["schema"], {"type": "object"})
    first, _ = json.JSONDecoder().raw_decode(example_of(entry))
    assert fits(schema, first)
    assert "description" not in json.dumps(schema)


def test_a_flow_of_the_chosen_kinds_fits_and_no_other() -> None:
    schema = PALETTE.flow_schema(["mqtt"], ["condition", "notify"])
    flow = {
        "name": "Too hot",
        "triggers": [{"id": "mqtt", "type": "mqtt", "config": {"topic": "a/b"}}],
        "nodes": [
            {"id": "condition", "type": "condition", "config": {"when": "payload.t > 30"}},
            {"id": "notify", "type": "notify", "config": {"to": "{{ secrets.me }}", "text": "hot"}},
        ],
        "edges": [{"from": "condition", "to": "notify", "port": "true"}],
    }
    assert fits(schema, {"flow": flow, "sample": {"t": 31}})
    assert not fits(schema, {"flow": {**flow, "nodes": []}, "sample": None})
    foreign = {"id": "command", "type": "command", "config": {"program": "rm"}}
    assert not fits(schema, {"flow": {**flow, "nodes": [foreign]}, "sample": None})
    wrong_id = {"id": "notify", "type": "condition", "config": {"when": "true"}}
    assert not fits(schema, {"flow": {**flow, "nodes": [wrong_id]}, "sample": None})
    nowhere = {"from": "condition", "to": "elsewhere"}
    assert not fits(schema, {"flow": {**flow, "edges": [nowhere]}, "sample": None})


def test_a_flow_without_a_trigger_has_none() -> None:
    schema = PALETTE.flow_schema([], ["log"])
    flow: dict[str, Any] = {
        "name": "x",
        "nodes": [{"id": "log", "type": "log", "config": {"message": "hi"}}],
        "edges": [],
    }
    assert fits(schema, {"flow": {**flow, "triggers": []}, "sample": None})
    some = [{"id": "mqtt", "type": "mqtt", "config": {"topic": "a"}}]
    assert not fits(schema, {"flow": {**flow, "triggers": some}, "sample": None})


def test_what_a_loop_runs_is_bound_too() -> None:
    schema = PALETTE.flow_schema([], ["for_each", "log"])
    inner = {"nodes": [{"id": "log", "type": "log", "config": {"message": "{{ payload }}"}}], "edges": []}
    loop = {"id": "for_each", "type": "for_each", "config": {"items": "payload", "body": inner}}
    flow = {"name": "x", "triggers": [], "nodes": [loop], "edges": []}
    assert fits(schema, {"flow": flow, "sample": []})
    inner["nodes"][0]["type"] = "command"
    assert not fits(schema, {"flow": flow, "sample": []})
    alone = PALETTE.flow_schema([], ["for_each"])
    assert fits(alone, {"flow": {**flow, "nodes": [{**loop, "config": {"flow": "other"}}]}, "sample": []})


def test_the_choice_is_of_kinds_that_there_are() -> None:
    schema = PALETTE.choice_schema()
    assert fits(schema, {"triggers": ["mqtt"], "nodes": ["condition", "notify"]})
    assert fits(schema, {"triggers": [], "nodes": ["log"]})
    assert not fits(schema, {"triggers": ["log"], "nodes": ["log"]})
    assert not fits(schema, {"triggers": [], "nodes": []})


def test_every_kind_is_in_the_overview_and_can_be_told_with_and_without_examples() -> None:
    overview = PALETTE.overview()
    assert all(f"- {entry['type']}: {entry['summary']}" in overview for entry in KINDS)
    full = PALETTE.details(PALETTE.triggers, PALETTE.nodes)
    short = PALETTE.details(PALETTE.triggers, PALETTE.nodes, examples=False)
    assert full.count("for example:") == len(KINDS)
    assert "for example:" not in short
    assert "when [expression, needed, What must be true" in short
    assert ids_of("log") == ["log", "log_2", "log_3", "log_4"]
