"""JSON out of a model's words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from appliance.ai.gateway.answers import Unfit, ask_again, value_of
from appliance.contracts import ConfigError

SCHEMA = {"type": "object", "properties": {"t": {"type": "integer", "minimum": 0}}, "required": ["t"]}


@pytest.mark.parametrize(
    "text",
    [
        '{"t": 3}',
        '  {"t": 3}\n',
        'Here you are:\n```json\n{"t": 3}\n```\nAnything else?',
        '```\n{"t": 3}\n```',
        'The answer is {"t": 3}, as you see.',
    ],
)
def test_a_value_is_found_in_what_models_put_around_it(text: str) -> None:
    assert value_of(text, SCHEMA) == {"t": 3}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("I cannot do that.", "no JSON"),
        ('{"t": ', "not valid JSON"),
        ('{"t": "warm"}', "t: "),
        ('{"t": -1}', "t: "),
        ("{}", "required"),
        ("[1]", "the value: "),
        ("{" * 100_000, "not valid JSON"),
    ],
)
def test_what_does_not_fit_is_said_so_that_a_model_can_mend_it(text: str, fault: str) -> None:
    with pytest.raises(Unfit, match=fault):
        value_of(text, SCHEMA)


def test_a_list_and_a_plain_value_are_values_too() -> None:
    assert value_of("[1, 2]", {"type": "array", "items": {"type": "integer"}}) == [1, 2]
    assert value_of('"yes"', {"enum": ["yes", "no"]}) == "yes"


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "file:///etc/hostname"}, {"pattern": "("}])
def test_a_schema_that_is_none_is_the_flows_fault(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="schema"):
        value_of('"x"', schema)


def test_a_pattern_cannot_take_for_ever() -> None:
    began = time.process_time()
    with pytest.raises(Unfit):
        value_of('"' + "a" * 5_000 + '!"', {"type": "string", "pattern": "^(a+)+$"})
    assert time.process_time() - began < 5.0


def test_the_second_question_shows_the_answer_the_fault_and_the_schema() -> None:
    said, told = ask_again("hm", "it holds no JSON", SCHEMA)
    assert said == {"role": "assistant", "content": "hm"}
    assert told["role"] == "user"
    assert "it holds no JSON" in told["content"]
    assert '"minimum":0' in told["content"]
