"""Drafting with a model that says what the test has written for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from appliance.contracts import (
    ChatReply,
    ChatRequest,
    ConfigError,
    DraftedFlow,
    DraftRequest,
    ModelFacts,
    NodeError,
    Problem,
)
from appliance.engine.validate import validate
from appliance.registry import Registry
from appliance.workshop.architect import Architect, tidy
from appliance.workshop.palette import Palette
from appliance.workshop.spec import spec_of
from tests.support.context import FakeWorld

REGISTRY = Registry().scan()
PALETTE = Palette(REGISTRY.catalog())

CHOICE = {"triggers": ["mqtt"], "nodes": ["condition", "log"]}
FLOW: dict[str, Any] = {
    "name": "Too hot",
    "triggers": [{"id": "mqtt", "type": "mqtt", "config": {"topic": "greenhouse/+/temp"}}],
    "nodes": [
        {"id": "condition", "type": "condition", "config": {"when": "payload.t > 30"}},
        {"id": "log", "type": "log", "config": {"message": "{{ payload.t }} °C"}},
    ],
    "edges": [{"from": "condition", "to": "log", "port": "true"}],
}


class Scripted:
    """Answers with the next value each time; keeps what it was asked."""

    def __init__(self, *answers: Any, context: int = 4096) -> None:
        self.asked: list[ChatRequest] = []
        self._answers = list(answers)
        self._context = context

    async def chat(self, request: ChatRequest, on_text: Callable[[str], None] | None = None) -> ChatReply:
        self.asked.append(request)
        data = self._answers.pop(0)
        text = json.dumps(data)
        return ChatReply(
            text=text, data=data, model="m", provider="local", finish="stop", tokens_in=10, tokens_out=5, cost=0.5
        )

    async def count(self, text: str, model: str = "") -> int:
        return len(text) // 4

    async def facts(self, model: str = "") -> ModelFacts:
        return ModelFacts(name="m", provider="local", context=self._context)


def check(flow: dict[str, Any]) -> Sequence[Problem]:
    return validate(flow, REGISTRY, FakeWorld())


def draft(models: Any, told: list[str] | None = None, **wanted: Any) -> DraftedFlow:
    request = DraftRequest(**{"text": "Log it when the greenhouse is over 30 degrees", **wanted})
    tell = (told if told is not None else []).append
    return asyncio.run(Architect(PALETTE, check, models, request, tell).draft())


def test_a_sentence_becomes_a_flow_without_faults() -> None:
    models, told = Scripted(CHOICE, {"flow": FLOW, "sample": {"t": 31}}), list[str]()
    made = draft(models, told)
    assert made.problems == []
    assert made.flow["nodes"] == FLOW["nodes"]
    assert made.sample == {"t": 31}
    assert made.answers == 2 and made.tokens == 30 and made.cost == 1.0
    assert told == ["choosing the kinds of steps", "writing a flow of mqtt, condition, log"]
    choosing, writing = models.asked
    assert "- camera_snapshot:" in choosing.messages[0]["content"]
    assert choosing.schema == PALETTE.choice_schema()
    assert writing.schema == PALETTE.flow_schema(["mqtt"], ["condition", "log"])
    assert "camera_snapshot" not in writing.messages[0]["content"]
    assert "Log it when" in made.spec and made.flow["spec"] == made.spec


def test_the_faults_are_shown_to_the_model_until_none_is_left() -> None:
    broken = {**FLOW, "nodes": [{**FLOW["nodes"][0], "config": {"when": "payload.t >"}}, FLOW["nodes"][1]]}
    models = Scripted(CHOICE, {"flow": broken, "sample": None}, {"flow": FLOW, "sample": None})
    made = draft(models)
    assert made.problems == [] and made.answers == 3
    told = models.asked[2].messages[-1]["content"]
    assert "nodes[0].config.when:" in told
    assert json.loads(models.asked[2].messages[-2]["content"])["flow"] == broken


def test_a_model_that_cannot_mend_it_leaves_a_draft_with_its_faults() -> None:
    broken = {**FLOW, "edges": [{"from": "condition", "to": "log", "port": "out"}]}
    worse = {**broken, "nodes": [{**FLOW["nodes"][0], "config": {"when": "("}}, FLOW["nodes"][1]]}
    models = Scripted(CHOICE, *({"flow": flow, "sample": None} for flow in (broken, worse, broken)))
    made = draft(models, repairs=2)
    assert made.answers == 4
    assert [problem.path for problem in made.problems] == ["edges[0].port"]
    assert made.flow["nodes"] == FLOW["nodes"]


def test_a_flow_is_drafted_again_from_its_edited_spec() -> None:
    old = {**FLOW, "settings": {"mode": "single"}, "tags": ["garden"], "spec": "old"}
    edited = spec_of(FLOW, PALETTE).replace("30", "35")
    new = {**FLOW, "nodes": [{**FLOW["nodes"][0], "config": {"when": "payload.t > 35"}}, FLOW["nodes"][1]]}
    models = Scripted({"triggers": [], "nodes": ["transform"]}, {"flow": new, "sample": None})
    made = draft(models, text="", spec=edited, flow=old)
    assert made.flow["nodes"][0]["config"] == {"when": "payload.t > 35"}
    assert made.spec == edited
    assert made.flow["settings"] == {"mode": "single"} and made.flow["tags"] == ["garden"]
    asked = models.asked[1]
    assert '"payload.t > 30"' in asked.messages[1]["content"] and "payload.t > 35" in asked.messages[1]["content"]
    assert asked.schema == PALETTE.flow_schema(["mqtt"], ["condition", "log", "transform"])


def test_examples_are_left_out_where_the_context_is_short() -> None:
    long, short = (Scripted(CHOICE, {"flow": FLOW, "sample": None}, context=size) for size in (8192, 2300))
    draft(long)
    draft(short)
    assert "for example:" in long.asked[1].messages[0]["content"]
    assert "for example:" not in short.asked[1].messages[0]["content"]


def test_nobody_is_asked_where_nothing_is_wanted() -> None:
    models = Scripted()
    with pytest.raises(ConfigError, match="say what the flow has to do"):
        draft(models, text=" ", spec="")
    assert models.asked == []


def test_an_answer_that_is_no_flow_is_a_clear_error() -> None:
    with pytest.raises(NodeError, match="m gave no flow"):
        draft(Scripted(CHOICE, None))


def test_what_says_nothing_is_left_out() -> None:
    edge = {"from": "a", "to": "b"}
    flow = {"edges": [{**edge, "port": "out", "condition": ""}, edge, {**edge, "port": "error"}]}
    assert tidy({"flow": flow})["edges"] == [edge, {**edge, "port": "error"}]


def test_the_spec_tells_the_steps_in_their_order_with_settings_and_ways() -> None:
    text = spec_of({**FLOW, "nodes": FLOW["nodes"][::-1], "description": "Watches."}, PALETTE)
    lines = text.splitlines()
    assert lines[0] == "# Too hot" and "Watches." in lines
    first = next(line for line in lines if line.startswith("1."))
    assert first.startswith("1. **condition** (Condition): Go one way")
    assert "   - when: `payload.t > 30`" in lines
    assert "   - true: then log" in lines
    assert "- **mqtt** (MQTT message)" in text or "- **mqtt** (" in text
    assert spec_of({"name": "x", "nodes": []}, PALETTE).startswith("# x\n\n## When it runs\n\n- When a person")
