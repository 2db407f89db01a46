"""Templates and expressions: what they give, what they refuse, what they may cost."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.contracts import ExpressionError
from appliance.engine import expressions

NAMES: dict[str, Any] = {
    "payload": {"t": 31, "items": [1, 2], "who": "ann", "list": [{"a": 1}, {"a": 2}]},
    "event": {"topic": "a/b"},
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("payload.t > 30", True),
        ("payload.items", [1, 2]),
        ("payload['items'] | length", 2),
        ("payload.nope", None),
        ("payload.nope is defined", False),
        ("payload.nope | default(7)", 7),
        ("payload.list | map(attribute='a') | list", [1, 2]),
        ("'a' ~ payload.t", "a31"),
        ("payload.who if payload.t else 'nobody'", "ann"),
        ("'{\"x\": [1]}' | from_json", {"x": [1]}),
        ("0 | timestamp", 0.0),
        ("'YQ==' | b64decode", "a"),
        ("{'a': payload.t}", {"a": 31}),
    ],
)
def test_expressions_give_native_values(source: str, value: Any) -> None:
    assert expressions.expression(source)(NAMES) == value


def test_templates_give_text_and_json() -> None:
    assert expressions.template("{{ payload.t }} °C in {{ event.topic }}")(NAMES) == "31 °C in a/b"
    assert expressions.template("{{ payload.items }} {{ none }} {{ true }}")(NAMES) == "[1, 2]  true"
    assert expressions.template("{% for i in payload.items %}{{ loop.index }}/{{ loop.length }} {% endfor %}")(
        NAMES
    ) == ("1/2 2/2 ")


def test_a_single_expression_is_recognised() -> None:
    assert expressions.single(" {{ payload.t }} ") == "payload.t"
    assert expressions.single("{{ a }}{{ b }}") is None
    assert expressions.single("x {{ a }}") is None


@pytest.mark.parametrize("source", ["payload.nope > 3", "payload.nope.deeper", "nothing + 1", "1 / 0", "payload.t()"])
def test_what_fails_says_where(source: str) -> None:
    with pytest.raises(ExpressionError, match="in "):
        expressions.expression(source)(NAMES)


def test_a_missing_name_is_not_printed() -> None:
    with pytest.raises(ExpressionError, match="nope"):
        expressions.template("Hello {{ payload.nope }}")(NAMES)


@pytest.mark.parametrize(
    "source",
    [
        "''.__class__",
        "''.__class__.__mro__[1].__subclasses__()",
        "payload.__class__.__init__.__globals__['os']",
        "''.format.__globals__",
        "'{0.__class__}'.format(payload)",
        "range.__self__",
        "namespace.__init__.__globals__",
        "payload | attr('__class__')",
        "(1).__class__.__base__",
        "event.update({'x': 1})",
        "payload['list'].append(3)",
        "self.__init__.__globals__",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    for compiled in (expressions.expression(source), expressions.template("{{ " + source + " }}")):
        try:
            value = compiled(NAMES)
        except ExpressionError:
            continue
        assert value in (None, "", "None") or "class" not in str(value)
    assert NAMES["payload"]["list"] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** 10000000 }}",
        "{% set n = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1, 2]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('a' * 1000).join(['x'] * 100000) }}",
        "{{ (['x' * 1000] * 100000) | join('y') }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(1000000000) | list }}",
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 100 }}{% endfor %}{% endset %}",
    ],
)
def test_nothing_burns_the_box(source: str) -> None:
    began = time.process_time()
    with pytest.raises(ExpressionError):
        expressions.template(source)(NAMES)
    # Not a measurement: a template that got away would take minutes or all memory.
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("source", "is_expression"),
    [("payload.t >", True), ("{{ foo( }}", False), ("{% if x %}", False), ("a b", True), ("x | nofilter", True)],
)
def test_check_complains(source: str, is_expression: bool) -> None:
    assert expressions.check(source, is_expression)


@given(st.text(alphabet="abpayload.t0123456789 +-*/<>=!'{}|()%", max_size=30))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_short_cut_agrees_with_the_parser(source: str) -> None:
    """What passes without parsing must really compile."""
    for is_expression in (True, False):
        if expressions._surely_fine(source, is_expression):
            (expressions.expression if is_expression else expressions.template)(source)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_compiles_or_is_refused(source: str) -> None:
    for compile_text in (expressions.expression, expressions.template):
        try:
            compile_text(source)(NAMES)
        except ExpressionError:
            pass


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ExpressionError):
        expressions.expression("(" * 5000 + "1" + ")" * 5000)
    assert expressions.check("[" * 3000 + "]" * 3000, True)
