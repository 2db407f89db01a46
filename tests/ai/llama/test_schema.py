"""JSON Schema as a grammar: what it lets through fits, what fits (in our spelling) it lets through."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.ai.grammar import digits, patterns
from appliance.ai.grammar.schema import grammar_of
from appliance.ai.host.llama.constraint import Alphabet
from appliance.ai.host.llama.native import Model
from appliance.contracts import ConfigError
from tests.ai.llama.tasting import fits, write

FUZZ = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 'say "b"', "ü\n"]}, "maxItems": 3},
        "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "age"],
}

GOOD: list[tuple[Any, list[str], list[str]]] = [
    (PERSON, ['{"name": "Ada", "age": 36}', '{"name":"Ö","age":0,"tags":["a", "say \\"b\\""],"parent":null}'], []),
    (PERSON, [], ['{"age": 36, "name": "Ada"}', '{"name": "", "age": 3}', '{"name": "A", "age": 151}', "{}"]),
    ({"type": "string", "maxLength": 3}, ['"abc"', '"\\n\\u00e9x"', '""'], ['"abcd"', '"\\ud800"', '"\\u0000"']),
    ({"type": "string", "minLength": 300, "maxLength": 700}, [f'"{"x" * n}"' for n in (300, 512, 699, 700)], []),
    ({"type": "string", "minLength": 300, "maxLength": 700}, [], [f'"{"x" * n}"' for n in (299, 701, 900)]),
    ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, ['"AB-7"', '"AB-123"'], ['"AB-"', '"ab-1"', '"AB-1x"']),
    ({"type": "string", "pattern": 'a"|\\\\b'}, ['"xa\\"y"', '"\\\\b"'], ['"ab"']),
    ({"type": "string", "format": "date"}, ['"2024-02-28"', '"2024-12-31"'], ['"2024-02-30"', '"2024-13-01"']),
    ({"type": "string", "format": "date-time"}, ['"2024-02-28T23:59:59Z"', '"2024-01-01T00:00:00.5+02:00"'], ['"x"']),
    ({"type": "string", "format": "hostname"}, ['"anything at all"'], []),
    ({"enum": ["on", "off", 1, None, {"a": [1]}]}, ['"on"', "1", "null", '{"a": [1]}'], ['"o"', "2"]),
    ({"enum": ["on", 1], "type": "string"}, ['"on"'], ["1"]),
    ({"const": "\x7f"}, ['"\x7f"'], []),
    ({"type": ["integer", "null"]}, ["-12", "0", "null"], ["1.5", "00"]),
    ({"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3}, ["-2", "2", "0"], ["-3", "3", "-0"]),
    ({"type": "integer", "minimum": 99}, ["99", "100", "123456"], ["98", "9"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.5", "1.0", "0.123"], ["1.1", "-0.1"]),
    ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 1.5}, ["0.51", "1.5", "1"], ["0.5", "1.51"]),
    ({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}, ["0.25", "1"], ["0.3"]),
    ({"type": "integer", "minimum": 0, "maximum": 20, "multipleOf": 5}, ["0", "15", "20"], ["1", "25"]),
    ({"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False}, ["[null, true]"], []),
    ({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 2, "items": {"const": 1}}, ["[null,1]"], ["[1]"]),
    ({"type": "array", "items": {"type": "null"}, "minItems": 2}, ["[null,null]", "[null, null, null]"], ["[null]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, ["{}", '{"a": 1, "b": 2}'], ['{"a": "1"}']),
    ({"type": "object", "maxProperties": 1}, ["{}", '{"a": 1}'], ['{"a": 1, "b": 2}']),
    (
        {"type": "object", "properties": {"on": {"const": 1}}, "additionalProperties": {"type": "null"}},
        ['{"on":1,"o":null,"onx":null,"":null}', '{"x": null}', "{}"],
        ['{"on": null}', '{"x": 1}'],
    ),
    ({"type": "object", "required": ["x"]}, ['{"x": [1, {"y": null}]}'], ["{}"]),
    ({"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]}, ['{"a": 1}'], ["{}"]),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 4}]}, ["3", "4"], ["2", "3.5"]),
    ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]}, ["2", "3"], ["1", "4"]),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ['"a"', "1"], ["null"]),
    (
        {
            "oneOf": [
                {"type": "object", "properties": {"t": {"const": kind}, kind: {"type": "null"}}, "required": ["t"]}
                for kind in ("cat", "dog")
            ]
        },
        ['{"t": "cat", "cat": null}', '{"t": "dog"}'],
        ['{"t": "cat", "dog": null}'],
    ),
    ({"anyOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"const": "x"}}}, ['"x"'], ['"y"']),
    ({}, ["null", '{"a": [1.5e3, "x"]}'], ["nul"]),
    ({"properties": {"a": {"type": "null"}}}, ['{"a": null}', "{}"], ['{"a": 1}', "3"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), GOOD, ids=lambda value: str(value)[:60])
def test_examples(model: Model, alphabet: Alphabet, schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = grammar_of(schema)
    validator = jsonschema_rs.validator_for(schema)
    for text in good:
        assert fits(model, alphabet, grammar, text), text
        assert validator.is_valid(json.loads(text)), text
    for text in bad:
        assert not fits(model, alphabet, grammar, text), text


REFUSED = [
    ({"not": {}}, "#/not"),
    ({"type": "object", "properties": {"a": {"type": "text"}}}, "#/properties/a/type"),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems"),
    ({"type": "string", "pattern": "(?=a)b"}, "#/pattern"),
    ({"type": "string", "pattern": "(a)\\1"}, "#/pattern"),
    ({"type": "string", "pattern": "^a*$", "maxLength": 3}, "#/pattern"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "#/minLength"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "#"),
    ({"type": "number", "multipleOf": 0.1}, "#/multipleOf"),
    ({"$ref": "https://example.org/schema"}, "#/$ref"),
    ({"$ref": "#/$defs/nowhere"}, "#/$ref"),
    ({"$ref": "#"}, "#/$ref"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "#/$defs/b/$ref"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "#"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "#/oneOf/1"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "#/properties/a"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "#/required"),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}, "#/minProperties"),
    ({"enum": []}, "#"),
    ({"enum": ["\ud800"]}, "#"),
    ({"type": "string", "maxLength": 10**9}, "#/maxLength"),
    ({"type": "object", "properties": []}, "#/properties"),
    ({"anyOf": []}, "#/anyOf"),
    ({"items": 3}, "#/items"),
]


@pytest.mark.parametrize(("schema", "place"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_no_grammar_can_promise_is_refused_with_its_place(schema: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=rf"^schema at {re.escape(place)}: ") as caught:
        grammar_of(schema)
    assert caught.value.detail == {"place": place}


def test_what_is_no_json_or_nested_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="no JSON"):
        grammar_of({"const": {1, 2}})
    with pytest.raises(ConfigError, match="no JSON"):
        grammar_of({"const": float("nan")})
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(900):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ConfigError, match="nested too deep"):
        grammar_of(deep)


scalars = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(
        lambda least, more, form: {"type": "string", "minLength": least, "maxLength": least + more} | form,
        st.integers(0, 4),
        st.integers(0, 300),
        st.just({}),
    ),
    st.sampled_from([{"type": "string", "format": name} for name in ("date", "time", "date-time", "uuid")]),
    st.builds(
        lambda kind, low, width: {"type": kind, "minimum": low, "maximum": low + width},
        st.just("integer"),
        st.integers(-2000, 2000),
        st.integers(0, 5000),
    ),
    st.builds(
        lambda low, width: {"type": "number", "minimum": low / 100, "maximum": (low + width) / 100},
        st.integers(-5000, 5000),
        st.integers(0, 5000),
    ),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.integers(-20, 20)),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.integers(-9, 9)), min_size=1, max_size=4),
    ),
    st.just({"type": "integer"}),
    st.just({"type": "number"}),
    st.just({}),
)
names = st.text(st.sampled_from('ab"\\é'), max_size=3)


def _object(properties: dict[str, Any], required: list[bool], extra: Any) -> dict[str, Any]:
    must = [name for name, wanted in zip(properties, required, strict=False) if wanted]
    return {"type": "object", "properties": properties, "required": must, "additionalProperties": extra}


schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner,
            st.integers(0, 2),
            st.integers(0, 3),
        ),
        st.builds(
            lambda first, rest: {"type": "array", "prefixItems": first, "items": rest, "maxItems": 5},
            st.lists(inner, min_size=1, max_size=3),
            inner,
        ),
        st.builds(
            _object,
            st.dictionaries(names, inner, max_size=4),
            st.lists(st.booleans(), min_size=4, max_size=4),
            st.one_of(st.just(False), inner),
        ),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"$defs": {"it": one}, "allOf": [{"$ref": "#/$defs/it"}]}, scalars),
    ),
    max_leaves=8,
)


@FUZZ
@given(schema=schemas, seed=st.integers(0, 2**32 - 1))
def test_whatever_is_written_fits_the_schema(model: Model, alphabet: Alphabet, schema: Any, seed: int) -> None:
    if "$defs" in str(schema) and "$defs" not in schema:
        return  # the reference points nowhere, and that is refused
    text = write(model, alphabet, grammar_of(schema), seed)
    if text is not None:
        value = json.loads(text)
        jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)


@FUZZ
@given(low=st.integers(-3000, 3000), width=st.integers(0, 6000), tries=st.lists(st.integers(-9999, 9999), max_size=20))
def test_whole_numbers_between_bounds(model: Model, alphabet: Alphabet, low: int, width: int, tries: list[int]) -> None:
    grammar = f"root ::= {digits.whole(low, low + width)}"
    for number in (*tries, low, low - 1, low + width, low + width + 1, 0):
        assert fits(model, alphabet, grammar, str(number)) == (low <= number <= low + width), number


@FUZZ
@given(low=st.decimals(-20, 20, places=2), width=st.decimals(0, 20, places=2), tries=st.lists(st.integers(-4000, 4000)))
def test_decimals_between_bounds(
    model: Model, alphabet: Alphabet, low: Decimal, width: Decimal, tries: list[int]
) -> None:
    rule = digits.fixed(low, low + width, 2)
    assert rule is not None
    for number in (*(Decimal(n) / 100 for n in tries), low, low + width, low - Decimal("0.01"), Decimal("0.00")):
        text = f"{number:.2f}".replace("-0.00", "0.00")
        assert fits(model, alphabet, f"root ::= {rule}", text) == (low <= number <= low + width), text


regexes = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", "\\d", "\\w", ".", '"', "\\\\", "\\n", "é", "[a-c_\\d-]"]),
    lambda inner: st.one_of(
        st.builds(lambda parts: "".join(parts), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: f"({'|'.join(parts)})", st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one, sign: f"(?:{one}){sign}", inner, st.sampled_from(["?", "{2}", "{1,3}"])),
        st.builds(lambda one, sign: f"(?:{one}x){sign}", inner, st.sampled_from(["*", "+", "{2,}"])),
    ),
    max_leaves=6,
)


@FUZZ
@given(pattern=regexes, seed=st.integers(0, 2**32 - 1), anchored=st.booleans())
def test_what_a_pattern_lets_through_matches_it(
    model: Model, alphabet: Alphabet, pattern: str, seed: int, anchored: bool
) -> None:
    whole = f"^(?:{pattern})$" if anchored else pattern
    found = patterns.convert(whole)
    text = write(model, alphabet, f'root ::= "\\"" {found.rule} "\\""', seed, most=100)
    if text is not None:
        said = json.loads(text)
        assert re.search(whole, said, re.ASCII | re.DOTALL), (whole, said)
        assert found.least <= len(said) <= (found.most if found.most is not None else len(said))


@FUZZ
@given(data=st.data(), pattern=regexes)
def test_a_pattern_lets_through_what_matches_it(
    model: Model, alphabet: Alphabet, data: st.DataObject, pattern: str
) -> None:
    whole = f"^(?:{pattern})$"
    said = data.draw(st.from_regex(re.compile(whole, re.ASCII), fullmatch=True))
    text = json.dumps(said, ensure_ascii=False)
    if any((ord(character) < 0x20 and character != "\n") or ord(character) >= 0x7F for character in said):
        return  # classes leave out what must be escaped
    if re.search(r"\\", text[1:-1].replace("\\\\", "").replace('\\"', "").replace("\\n", "")):
        return
    outside_of_classes = not re.search(r"\[\^|\.", pattern)
    if outside_of_classes or not set(said) & set('"\\\n'):
        assert fits(model, alphabet, f'root ::= "\\"" {patterns.convert(whole).rule} "\\""', text), (whole, said)


@pytest.mark.parametrize("schema", [{"not": {}}, {"type": "array", "uniqueItems": True}])
def test_who_demands_what_no_model_here_can_be_held_to_is_told_what_helps(schema: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot be held to this.*leave it out"):
        grammar_of(schema)
