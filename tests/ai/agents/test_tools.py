"""What tools an AI agent can call: the schema is the wall, and it holds for whatever comes back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.contracts import Problem
from appliance.nodes import _schemas
from appliance.nodes._answers import AnswerText
from appliance.nodes._prompts import system_text
from appliance.nodes._tools import Answer, Call, Tool, Wrong, first_nodes, read_reply, reply_schema, tool_faults
from appliance.nodes.ai_agent import AiAgent
from tests.ai.agents.scripted import answer, several, use
from tests.support.bench_engine import AnyWorld

LAMP = Tool(
    about="Switches a lamp.",
    node="lamp",
    arguments={
        "room": {"type": "string", "enum": ["hall", "kitchen"]},
        "level": {"type": "integer", "minimum": 0, "maximum": 100, "default": 100},
    },
)
WATER = Tool(about="Waters the plants.", flow="water", name="water_plants")


class NoFlows(AnyWorld):
    """A machine without flows."""

    def confined(self) -> bool:
        return True

    def flow_exists(self, flow: str) -> bool:
        return False


@pytest.mark.parametrize("about", ["Reads the meter", "Reads the meter."])
def test_a_tool_is_told_in_whole_sentences(about: str) -> None:
    told = system_text("", [Tool(about=about, node="meter")], 1, False, 2)
    assert "- meter: Reads the meter. Arguments: {}" in told


def test_a_call_is_read_with_its_defaults() -> None:
    assert read_reply(use("lamp", room="hall"), [LAMP, WATER], None, 1) == [
        Call("lamp", {"level": 100, "room": "hall"})
    ]
    assert read_reply(answer("done"), [LAMP], None, 1) == Answer("done")
    both = several(use("lamp", room="hall", level=0), use("water_plants"))
    assert [call.tool for call in read_reply(both, [LAMP, WATER], None, 2)] == ["lamp", "water_plants"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (use("shell", command="rm -rf /"), "there is no tool 'shell'"),
        (use("water", room="hall"), "there is no tool 'water'"),
        (use("lamp", room="cellar"), "must be one of hall, kitchen"),
        (use("lamp", room="hall", level=101), "out of its bounds"),
        (use("lamp", room="hall", level=True), "must be an integer"),
        (use("lamp", room="hall", level="0"), "must be an integer"),
        (use("lamp", room=["hall"]), "must be a string"),
        (use("lamp"), "lacks 'room'"),
        (use("lamp", room="hall", then="shell"), "must not be there"),
        ({**use("lamp", room="hall"), "as": "root"}, "nothing else"),
        ({**answer("x"), **use("shell")}, "must not be there"),
        ({"tool": ["lamp"], "arguments": {}}, "there is no tool"),
        ({"tool": "lamp", "arguments": "hall"}, "must be an object"),
        (several(use("lamp", room="hall")), "nothing else"),
        (answer({"text": "x"}), "must be a string"),
        ("lamp", "one JSON object"),
        ([use("lamp", room="hall")], "one JSON object"),
        (None, "one JSON object"),
    ],
)
def test_nothing_else_can_be_called(said: Any, why: str) -> None:
    with pytest.raises(Wrong, match=why.replace("(", r"\(")):
        read_reply(said, [LAMP, WATER], None, 1)


def test_not_more_calls_than_asked_for() -> None:
    with pytest.raises(Wrong, match="1 to 2 calls"):
        read_reply(several(*[use("water_plants")] * 3), [WATER], None, 2)
    with pytest.raises(Wrong, match="1 to 2 calls"):
        read_reply(several(), [WATER], None, 2)


def test_the_schema_names_exactly_the_tools() -> None:
    schema = reply_schema([LAMP, WATER], None, 1)
    named = [one["properties"]["tool"]["const"] for one in schema["anyOf"] if "tool" in one["properties"]]
    assert named == ["lamp", "water_plants"]
    assert schema["anyOf"][0]["properties"]["arguments"]["required"] == ["room"]
    assert all(one["additionalProperties"] is False for one in schema["anyOf"])
    several_calls = reply_schema([LAMP, WATER], {"type": "object"}, 3)["anyOf"][0]["properties"]["calls"]
    assert several_calls["maxItems"] == 3
    assert several_calls["items"]["anyOf"] == schema["anyOf"][:2]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["tool", "arguments", "answer", "calls", "room", "level", "lamp", "hall", "x"])
SHAPED = st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=3) | NAMES, max_size=3)


@given(said=JSON | SHAPED, calls=st.integers(1, 3))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_what_is_read_is_what_the_schema_allows(said: Any, calls: int) -> None:
    schema = reply_schema([LAMP, WATER], None, calls)
    try:
        read = read_reply(said, [LAMP, WATER], None, calls)
    except Wrong:
        assert _schemas.misfit(schema, said)
        return
    assert _schemas.misfit(schema, said) == ""
    if isinstance(read, list):
        assert {call.tool for call in read} <= {"lamp", "water_plants"}


# --- what a config can get wrong ---


def faults(tools: list[Any], body: Any = None) -> list[Problem]:
    return list(tool_faults(tools, body, NoFlows()))


def test_faults_of_tools_are_told_with_their_place() -> None:
    body = {"nodes": [{"id": "a"}, {"id": "b"}], "edges": [{"from": "a", "to": "b"}]}
    tools = [
        {"about": "x", "node": "b"},
        {"about": "x", "node": "a", "flow": "f"},
        {"about": "x"},
        {"about": "x", "flow": "f"},
        {
            "about": "x",
            "node": "a",
            "arguments": {"n": {"type": "nubmer"}, "r": {"$ref": "#/x"}, "p": {"pattern": "("}},
        },
        {"about": "x", "node": "a"},
        {"about": "x", "flow": "{{ vars.f }}", "name": "v"},
    ]
    found = {problem.path: problem.message for problem in faults(tools, body)}
    assert set(found) == {
        "tools[0].node", "tools[1].node", "tools[2].node", "tools[3].flow", "tools[4].arguments.n.type",
        "tools[4].arguments.r.$ref", "tools[4].arguments.p.pattern", "tools[4].name", "tools[5].name",
    }  # fmt: skip
    assert "these are: a" in found["tools[0].node"]


@pytest.mark.parametrize("body", [None, [], {"nodes": 3}, {"nodes": [3, {}]}, {"nodes": [], "edges": "x"}])
def test_a_body_that_is_none_has_no_first_nodes(body: Any) -> None:
    assert first_nodes(body) == []
    config = {"task": "t", "tools": [{"about": "x", "node": "a"}], "body": body}
    assert list(AiAgent().check(config, NoFlows()))


def test_an_answer_schema_is_checked_too() -> None:
    config = {"task": "t", "tools": [{"about": "x", "flow": "{{ f }}"}], "answer": {"properties": {"a": {"of": 1}}}}
    assert [fault.path for fault in AiAgent().check(config, NoFlows())] == ["answer.properties.a.of"]


def test_a_schema_with_a_template_is_judged_by_its_value() -> None:
    arguments = {"room": {"type": "string", "enum": "{{ vars.rooms }}"}}
    assert faults([{"about": "x", "flow": "{{ vars.f }}", "arguments": arguments}]) == []


def test_a_tools_name_is_one() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"about": "x", "node": "a", "name": "two words"}, Tool)


# --- showing an answer while it is made ---


def shown(text: str, size: int) -> str:
    told = AnswerText()
    return "".join(told.feed(text[start : start + size]) for start in range(0, len(text), size))


@given(text=st.text(), size=st.integers(1, 7), ascii=st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_an_answers_text_is_shown_as_it_comes(text: str, size: int, ascii: bool) -> None:  # noqa: A002
    import json

    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert shown(json.dumps(answer(text), ensure_ascii=ascii), size) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": "lamp", "arguments": {"answer": "x"}}',
        '{"calls": [{"answer": "x"}]}',
        "answer",
        '{"answers": "x"}',
        " " * 99,
    ],
)
def test_a_call_shows_nothing(text: str) -> None:
    assert shown(text, 2) == ""


def test_an_escape_that_is_none_stops_nothing() -> None:
    assert shown(r'{"answer": "a\u00zzb\qc"}', 3) == "a�bc"
