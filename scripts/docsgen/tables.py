"""Tables of settings, made from a config class: what each one takes, its default, its bounds, what it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct

Schema = Mapping[str, Any]

_SIMPLE = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "object": "object",
    "array": "list",
}
_TEXTS = {"expression": "expression", "code": "text", "graph": "nodes and edges", "duration": "duration"}
#: What the column "template" says; any other text may hold `{{ … }}`.
_TEMPLATES = {"expression": "is an expression", "code": "never", "graph": "inside"}
_UNITS = (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


class Table(Struct, frozen=True):
    """The fields of one class; ``title`` is its name in the text, empty for the config itself."""

    title: str
    about: str
    rows: list[list[str]]


def tables(kind: type[Any]) -> list[Table]:
    """The table of a class and of the classes inside it, in the order in which they are met."""
    (schema,), defs = msgspec.json.schema_components([kind], ref_template="{name}")
    classes = _classes(kind)
    names = [schema["$ref"]]
    found: list[Table] = []
    for name in names:
        entry = defs[name]
        names += [inner for inner in _references(entry) if inner not in names and "properties" in defs[inner]]
        about = "" if not found else str(entry.get("description", ""))
        rows = [_row(field, shape, entry, defs, classes[name]) for field, shape in entry["properties"].items()]
        found.append(Table(name if found else "", about, rows))
    return found


def _classes(kind: type[Any]) -> dict[str, dict[str, Any]]:
    """The default of every field, by class and field name; a factory's default is what it makes."""
    found: dict[str, dict[str, Any]] = {}

    def visit(shape: Any) -> None:
        if isinstance(shape, msgspec.inspect.StructType) and shape.cls.__name__ not in found:
            found[shape.cls.__name__] = {
                field.encode_name: field.default if field.default is not NODEFAULT else _made(field)
                for field in shape.fields
            }
            for field in shape.fields:
                visit(field.type)
        for name in ("type", "item_type", "value_type"):
            if (inner := getattr(shape, name, None)) is not None:
                visit(inner)
        for member in getattr(shape, "types", ()):
            visit(member)

    visit(msgspec.inspect.type_info(kind))
    return found


def _made(field: msgspec.inspect.Field) -> Any:
    return NODEFAULT if field.default_factory is NODEFAULT else field.default_factory()


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _row(name: str, shape: Schema, owner: Schema, defs: Schema, defaults: Mapping[str, Any]) -> list[str]:
    default = "required" if name in owner.get("required", ()) else _default(defaults[name], _marks(shape))
    return [
        f"`{name}`",
        _kind(shape, defs),
        default,
        _bounds(shape),
        _TEMPLATES.get(_marks(shape), "yes"),
        _about(shape),
    ]


def _about(shape: Schema) -> str:
    parts = [str(shape[key]).rstrip(".") for key in ("title", "description") if shape.get(key)]
    return ". ".join(parts)


def _marks(shape: Schema) -> str:
    """What kind of text this is: that of the type itself or of its first alternative."""
    inner = [_marks(member) for member in shape.get("anyOf", ())]
    return str(shape.get("x-flowork-text") or next(filter(None, inner), ""))


def _kind(shape: Schema, defs: Schema) -> str:
    """A type in plain words."""
    if "$ref" in shape:
        target = defs[shape["$ref"]]
        return _kind(target, defs) if "enum" in target else f"[{shape['$ref']}](#{shape['$ref'].lower()})"
    if "x-flowork-text" in shape:
        return _TEXTS[shape["x-flowork-text"]]
    if "enum" in shape:
        return "one of " + ", ".join(_code(value) for value in shape["enum"])
    if "anyOf" in shape:
        return _union([_kind(member, defs) for member in shape["anyOf"]])
    if shape.get("type") == "array" and "items" in shape and shape["items"]:
        return f"list ({_kind(shape['items'], defs)})"
    values = shape.get("additionalProperties")
    if shape.get("type") == "object" and isinstance(values, dict) and values:
        return f"object ({_kind(values, defs)} by name)"
    return _SIMPLE.get(str(shape.get("type")), "any JSON")


def _union(kinds: list[str]) -> str:
    """Alternatives in a sentence. Leaving a value out is the same as `null`, so that is not worth a word."""
    found = list(dict.fromkeys(kind for kind in kinds if kind != _SIMPLE["null"]))
    if _SIMPLE["number"] in found and _SIMPLE["integer"] in found:
        found.remove(_SIMPLE["integer"])
    return " or ".join([*([", ".join(found[:-1])] if len(found) > 1 else []), found[-1]])


def _default(value: Any, mark: str) -> str:
    if value is NODEFAULT or value is None:
        return "left out"
    if value == "":
        return "empty"
    if mark == "duration" and isinstance(value, int | float):
        return f"`{_time(value)}`"
    return _code(msgspec.to_builtins(value))


def _time(value: float) -> str:
    unit, size = next(((unit, size) for unit, size in _UNITS if value and value % size == 0), ("s", 1))
    return f"{value / size:g}{unit}"


def _code(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _bounds(shape: Schema) -> str:
    found = [
        _between(shape.get("minimum"), shape.get("maximum"), shape.get("exclusiveMinimum"), ""),
        _between(shape.get("minLength"), shape.get("maxLength"), None, " characters"),
        _between(shape.get("minItems"), shape.get("maxItems"), None, " entries"),
        _between(shape.get("minProperties"), shape.get("maxProperties"), None, " entries"),
        f"matches `{shape['pattern']}`" if "pattern" in shape else "",
    ]
    inner = [_bounds(member) for member in shape.get("anyOf", ())]
    return ", ".join(dict.fromkeys(filter(None, [*found, *inner])))


def _between(low: Any, high: Any, above: Any, unit: str) -> str:
    if low == 1 and high is None and unit:
        return "not empty"
    if above is not None:
        return f"more than {_number(above)}" + (f", at most {_number(high)}" if high is not None else "") + unit
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {_number(low)}{unit}"
    return f"at most {_number(high)}{unit}" if low is None else f"{_number(low)} to {_number(high)}{unit}"


def _number(value: float) -> str:
    return f"{value:,}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
