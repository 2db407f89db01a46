"""What a step says when a template in its config had nothing to give."""

from __future__ import annotations

import pytest

from appliance.contracts import Config, ConfigError, ExpressionError
from appliance.engine.configs import ConfigPlan


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


def test_a_value_of_the_wrong_kind_is_told_with_its_place() -> None:
    plan = ConfigPlan(_Config, {"to": "me", "times": "{{ payload.n }}"})
    with pytest.raises(ConfigError, match=r"^times: expected `int`, got `str`$"):
        plan.decode(plan.rendered({"payload": {"n": "many"}}))
