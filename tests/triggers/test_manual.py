"""The manual trigger: what its form declares and what may be given."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts import ConfigError, decode
from appliance.triggers.manual import Manual, ManualConfig, validate_inputs
from tests.support.context import FakeWorld
from tests.support.triggers import FakeTriggerContext, attach

FORM = {
    "inputs": [
        {"name": "room", "type": "choice", "choices": ["kitchen", "hall"], "required": True},
        {"name": "level", "type": "number", "default": 5},
        {"name": "loud", "type": "boolean"},
        {"name": "note", "type": "text", "default": ""},
    ]
}


def given(values: Any, form: dict[str, Any] = FORM) -> Any:
    config = decode(ManualConfig, form)
    payload = Manual().accept(config, values)
    assert payload == validate_inputs(config, values)
    return payload


def test_what_is_missing_gets_its_default() -> None:
    assert given({"room": "hall"}) == {"room": "hall", "level": 5, "loud": None, "note": ""}
    assert given({"room": "hall", "level": 1.5, "loud": False, "note": "x"}) == {
        "room": "hall",
        "level": 1.5,
        "loud": False,
        "note": "x",
    }


def test_without_declared_inputs_anything_may_be_given() -> None:
    for value in (None, 5, "x", [1], {"a": 1}):
        assert given(value, {}) == value


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (None, "input.room: is required"),
        ({"room": ""}, "input.room: is required"),
        ({"room": "cellar"}, "input.room: must be one of kitchen, hall"),
        ({"room": 1}, "input.room: must be a choice"),
        ({"room": "hall", "level": "5"}, "input.level: must be a number"),
        ({"room": "hall", "level": True}, "input.level: must be a number"),
        ({"room": "hall", "loud": 1}, "input.loud: must be a boolean"),
        ({"room": "hall", "note": ["x"]}, "input.note: must be a text"),
        ({"room": "hall", "colour": "red"}, "input.colour: is not declared"),
        ([1], "input: must be an object"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        given(values)
    assert complaint in caught.value.message


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ([{"name": "a"}, {"name": "a"}], "inputs[1].name"),
        ([{"name": "a", "type": "choice"}], "inputs[0].choices"),
        ([{"name": "a", "type": "number", "default": "five"}], "inputs[0].default"),
        ([{"name": "a", "type": "choice", "choices": ["x"], "default": "y"}], "inputs[0].default"),
    ],
)
def test_a_form_that_makes_no_sense_is_found_on_save(inputs: list[Any], path: str) -> None:
    assert [problem.path for problem in Manual().check({"inputs": inputs}, FakeWorld())] == [path]


def test_a_good_form_and_one_with_templates_have_no_problem() -> None:
    assert list(Manual().check(FORM, FakeWorld())) == []
    assert list(Manual().check({"inputs": "{{ vars.inputs }}"}, FakeWorld())) == []


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "x" * 65])
def test_names_are_fit_for_templates(name: str) -> None:
    with pytest.raises(ConfigError):
        decode(ManualConfig, {"inputs": [{"name": name}]})


def test_it_listens_to_nothing() -> None:
    ctx = FakeTriggerContext()
    detach = attach(Manual(), FORM, ctx)
    detach()
    detach()
    assert ctx.timers == ctx.listeners == ctx.events == []
