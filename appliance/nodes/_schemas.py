"""The part of JSON Schema by which the arguments of tools are described and checked (json-schema.org, 2020-12).

Known are ``type``, ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties``, ``items``, the bounds
of numbers, texts and lists, ``pattern``, ``anyOf``, ``oneOf`` and ``allOf``. Words that only describe (``title``,
``description``, ``default``, ``examples``, ``format``) constrain nothing. Any other word is a fault of the schema: a
constraint that is silently not enforced would be none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_INSIDE = {"items", "additionalProperties"}
_CHOICES = {"anyOf", "oneOf", "allOf"}
_WORDS = {
    "type", "enum", "const", "properties", "required", "minItems", "maxItems", "minLength", "maxLength", "pattern",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "title", "description", "default", "examples", "format",
} | _INSIDE | _CHOICES  # fmt: skip
_DEEPEST = 12


def faults(schema: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """What is wrong with a schema itself: places and sentences."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield path, 'must be a JSON Schema, such as {"type": "string"}'
        return
    if depth > _DEEPEST:
        yield path, f"is nested deeper than {_DEEPEST} levels"
        return
    here = f"{path}." if path else ""
    for word in sorted(schema.keys() - _WORDS):
        yield f"{here}{word}", "is not a word of JSON Schema that is enforced here; leave it out"
    yield from _word_faults(schema, here)
    for name, inner in _parts(schema):
        yield from faults(inner, f"{here}{name}", depth + 1)


def _word_faults(schema: Mapping[str, Any], here: str) -> Iterator[tuple[str, str]]:
    kinds = _kinds(schema)
    if unknown := [kind for kind in kinds if kind not in _TYPES]:
        yield f"{here}type", f"there is no type {unknown[0]!r}; there are {', '.join(_TYPES)}"
    if not isinstance(schema.get("properties", {}), Mapping):
        yield f"{here}properties", "must be an object of schemas by name"
    for word in ("enum", "required", *_CHOICES):
        if word in schema and not (isinstance(schema[word], list) and (schema[word] or word == "required")):
            yield f"{here}{word}", "must be a list" + ("" if word == "required" else " with something in it")
    if "pattern" in schema:
        try:
            re.compile(schema["pattern"])
        except (re.error, TypeError) as exc:
            yield f"{here}pattern", f"is no regular expression: {exc}"


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    kind = schema.get("type", [])
    return kind if isinstance(kind, list) else [kind]


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas within a schema."""
    properties = schema.get("properties", {})
    if isinstance(properties, Mapping):
        yield from ((f"properties.{name}", inner) for name, inner in properties.items())
    yield from ((word, schema[word]) for word in sorted(_INSIDE & schema.keys()))
    for word in sorted(_CHOICES & schema.keys()):
        if isinstance(schema[word], list):
            yield from ((f"{word}[{index}]", inner) for index, inner in enumerate(schema[word]))


def misfit(schema: Any, value: Any, path: str = "") -> str:
    """Why a value does not fit a (faultless) schema, with the place; empty if it does."""
    if isinstance(schema, bool):
        return "" if schema else f"{_at(path)}must not be there"
    if (kinds := _kinds(schema)) and not any(_is(value, kind) for kind in kinds):
        return f"{_at(path)}must be {_article(' or '.join(map(str, kinds)))}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{_at(path)}must be one of {', '.join(map(str, schema['enum']))[:300]}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{_at(path)}must be {schema['const']}"
    found = _bounds(schema, value, path)
    if not found and isinstance(value, dict):
        found = _object(schema, value, path)
    if not found and isinstance(value, list) and "items" in schema:
        each = (misfit(schema["items"], item, f"{path}[{index}]") for index, item in enumerate(value))
        found = next((fault for fault in each if fault), "")
    return found or _choices(schema, value, path)


def _bounds(schema: Mapping[str, Any], value: Any, path: str) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        wrong = (
            not math.isfinite(value)
            or value < schema.get("minimum", value)
            or value > schema.get("maximum", value)
            or ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
            or ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
        )
        return f"{_at(path)}is out of its bounds" if wrong else ""
    for kind, least, most in ((str, "minLength", "maxLength"), (list, "minItems", "maxItems")):
        if isinstance(value, kind) and not schema.get(least, 0) <= len(value) <= schema.get(most, len(value)):
            return f"{_at(path)}is too short or too long"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{_at(path)}must match {schema['pattern']}"
    return ""


def _object(schema: Mapping[str, Any], value: dict[str, Any], path: str) -> str:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            return f"{_at(path)}lacks {name!r}"
    rest = schema.get("additionalProperties", True)
    for name, item in value.items():
        inner = f"{path}.{name}" if path else name
        if fault := misfit(properties.get(name, rest), item, inner):
            return fault
    return ""


def _choices(schema: Mapping[str, Any], value: Any, path: str) -> str:
    for word in _CHOICES & schema.keys():
        results = [misfit(one, value, path) for one in schema[word]]
        fits = results.count("")
        if (word == "allOf" and fits < len(results)) or (word == "oneOf" and fits != 1) or not fits:
            return next((fault for fault in results if fault), f"{_at(path)}fits more than one choice")
    return ""


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _at(path: str) -> str:
    return f"{path}: " if path else ""
