"""What the parts of the JSON Schema converter have in common: reading a schema's words, and refusing it. Pure."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from appliance.contracts import ConfigError

Schema = dict[str, Any]

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
#: What says nothing about the value. So do formats, beside a few.
NOTES = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"),
    *("$id", "$anchor", "$defs", "definitions", "format", "contentMediaType", "contentEncoding", "discriminator"),
}
#: More values than these cannot be told apart.
MOST_VALUES = 1024


def refuse(place: str, why: str) -> NoReturn:
    """``ConfigError`` with its place."""
    raise ConfigError(f"schema at {place}: {why}", detail={"place": place})


def bounds(schema: Schema, low: str, high: str, bound: int, place: str) -> tuple[int, int | None]:
    """The least and the most of something that is counted."""
    least, most = schema.get(low, 0), schema.get(high)
    for key, value in ((low, least), (high, most)):
        if value is not None and (not is_a(value, "integer") or value < 0):
            refuse(f"{place}/{key}", "it must be a whole number from 0 on")
        if value is not None and value > bound:
            refuse(f"{place}/{key}", f"{value} is too much for a grammar: {bound} at most")
    if most is not None and least > most:
        refuse(f"{place}/{low}", f"it is more than {high}")
    return int(least), None if most is None else int(most)


def list_of(schema: Schema, key: str, place: str) -> list[Any]:
    """The list under a key."""
    found = schema[key]
    if not isinstance(found, list):
        refuse(f"{place}/{key}", "it must be a list")
    return found


def dump(value: Any, place: str) -> str:
    """A value as JSON, in the one spelling that is written."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        refuse(place, "a text has half a character (a surrogate) in it")
    return text


def literal(text: str) -> str:
    """A text in GBNF."""
    made = text.replace("\\", "\\\\").replace('"', '\\"').replace("\x7f", "\\x7F")
    return f'"{made}"'


def within(kind: str, kinds: list[str]) -> bool:
    """Whether all of one type is allowed among others."""
    return kind in kinds or (kind == "integer" and "number" in kinds)


def as_list(value: Any) -> list[Any]:
    """One thing or a list of them, as a list."""
    return value if isinstance(value, list) else [value]


def is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a type, as JSON Schema sees it: 1.0 is an integer."""
    if isinstance(value, bool):
        return kind == "boolean"
    match kind:
        case "integer":
            return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        case "number":
            return isinstance(value, int | float)
        case "string":
            return isinstance(value, str)
        case "null":
            return value is None
        case "array":
            return isinstance(value, list)
    return kind == "object" and isinstance(value, dict)
