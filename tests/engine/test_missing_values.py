"""What a step says when a template in its config had nothing to give."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta

from appliance.contracts import Config, ConfigError, ExpressionError
from appliance.engine.configs import ConfigPlan, problems


class _Config(Config, frozen=True):
    to: str
    times: int = 1


def test_a_template_without_a_value_is_named() -> None:
    plan = ConfigPlan(_Config, {"to": "me", "times": "{{ vars.times }}"})
    with pytest.raises(ConfigError) as caught:
        plan.decode(plan.rendered({"vars": {}}))
    assert caught.value.message == "times: there is no value for {{ vars.times }}"


def test_a_missing_name_in_a_text_is_named() -> None:
    plan = ConfigPlan(_Config, {"to": "{{ secrets.gardener }}"})
    with pytest.raises(ExpressionError) as caught:
        plan.rendered({"secrets": {}})
    assert caught.value.message == "config.to: there is no 'gardener' (in '{{ secrets.gardener }}')"


def test_a_name_in_nothing_is_told_as_that() -> None:
    plan = ConfigPlan(_Config, {"to": "{{ payload.flow }}"})
    with pytest.raises(ExpressionError, match="there is no 'flow': what it is looked for in is null"):
        plan.rendered({"payload": None})


def test_a_value_of_the_wrong_kind_is_told_with_its_place() -> None:
    plan = ConfigPlan(_Config, {"to": "me", "times": "{{ payload.n }}"})
    with pytest.raises(ConfigError, match=r"^times: expected `int`, got `str`$"):
        plan.decode(plan.rendered({"payload": {"n": "many"}}))


class _Bounded(Config, frozen=True):
    text: Annotated[str, Meta(min_length=1, max_length=3)] = "x"
    labels: Annotated[dict[str, int], Meta(min_length=2)] = {}
    names: Annotated[list[str], Meta(max_length=1)] = []


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"text": ""}, "text: must not be empty"),
        ({"text": "four"}, "text: has more than 3 characters"),
        ({"labels": {"a": 1}}, "labels: needs 2 entries or more"),
        ({"names": ["a", "b"]}, "names: has more than 1 entry"),
    ],
)
def test_a_value_of_the_wrong_length_is_told_in_plain_words(config: dict[str, Any], fault: str) -> None:
    plan = ConfigPlan(_Bounded, dict.fromkeys(config, "{{ payload }}"))
    with pytest.raises(ConfigError) as caught:
        plan.decode(plan.rendered({"payload": next(iter(config.values()))}))
    assert caught.value.message == fault
    assert [f"{one.path}: {one.message}" for one in problems(_Bounded, config)] == [fault]
