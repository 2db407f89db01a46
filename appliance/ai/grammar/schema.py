"""JSON Schema (draft 2020-12) to a GBNF grammar: whatever the grammar lets through is JSON that fits the schema. Pure.

What a grammar cannot promise is refused with its place rather than left out; notes (``title``, ``description``,
``default``, ``format`` beside the few below) bind nobody in JSON Schema either. Texts are written compactly: properties
in the order of the schema, at most one space behind ``:`` and ``,``, objects without properties that the schema does
not name unless it says what those hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from appliance.ai.grammar import patterns
from appliance.ai.grammar.demands import Demands
from appliance.ai.grammar.numbers import number_rule
from appliance.ai.grammar.rules import FORMATS, RULES
from appliance.ai.grammar.words import (
    MOST_VALUES,
    NOTES,
    TYPES,
    Schema,
    bounds,
    dump,
    is_a,
    list_of,
    literal,
    refuse,
)
from appliance.contracts import ConfigError

#: What each type knows besides.
_KNOWN = {
    "string": {"minLength", "maxLength", "pattern"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
    "boolean": set[str](),
    "null": set[str](),
}
_KNOWN["integer"] = _KNOWN["number"]
_ANY_TYPE = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
#: Longer repetitions than this are built of blocks of so many: llama.cpp makes a rule of each repetition.
_BLOCK = 256
_BEYOND = "a model of this machine cannot be held to this"
_MOST_CHARACTERS, _MOST_ITEMS = 1 << 16, 4096

#: Literals, classes and names in a rule.
_WORDS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[a-z][a-z0-9]*')


def grammar_of(schema: Schema) -> str:
    """The grammar of all texts that fit, its beginning named ``root``. ``ConfigError`` names the place that cannot be
    expressed, or that nothing can fit.
    """
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the schema is no JSON: {error}") from None
    return _converted(text)


@lru_cache(maxsize=64)
def _converted(text: str) -> str:
    try:
        return _Converter(json.loads(text)).grammar()
    except RecursionError:
        raise ConfigError("the schema is nested too deep") from None


class _Converter:
    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._demands = Demands(schema)
        self._rules: dict[str, str] = {}
        #: Names of the rules of ``$ref`` targets; None while it is not known yet whether the target is only another.
        self._targets: dict[str, str] = {}
        self._following: list[str] = []

    def grammar(self) -> str:
        self._rules["root"] = self._reference({"$ref": "#"}, "#")
        rules, reached, queue = {**RULES, **self._rules}, {}, ["root"]
        while queue:
            name = queue.pop()
            if name in rules and name not in reached:
                reached[name] = rules[name]
                queue += [word for word in _WORDS.findall(rules[name]) if word[0] not in '"[']
        return "".join(f"{name} ::= {rule}\n" for name, rule in reached.items())

    def _rule(self, text: str) -> str:
        """Give a rule a name of its own."""
        name = f"r{len(self._rules)}"
        self._rules[name] = text
        return name

    def _visit(self, schema: Any, place: str) -> str:
        """The right side of a rule for this schema."""
        if schema is True or schema == {}:
            return "value"
        if schema is False:
            refuse(place, "nothing fits false")
        if not isinstance(schema, dict):
            refuse(place, "a schema is an object, true or false")
        if "$ref" in schema:
            return self._reference(schema, place)
        if "allOf" in schema:
            return self._visit(self._demands.merged(schema, place), place)
        if "const" in schema:
            return self._values([schema["const"]], schema, place)
        if "enum" in schema:
            return self._values(list_of(schema, "enum", place), schema, place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternatives(schema, key, place)
        kinds = self._kinds(schema, place)
        self._check_known(schema, kinds, place)
        return " | ".join(f"({self._typed(schema, kind, place)})" for kind in kinds)

    def _kinds(self, schema: Schema, place: str) -> list[str]:
        kinds = schema.get("type")
        if kinds is None:
            # Without a type, whatever is said of one type binds values of that type only: so all others fit as well,
            # which nobody means. What is meant is the type that is spoken of.
            spoken = [kind for kind in ("object", "array", "string", "number") if _KNOWN[kind] & schema.keys()]
            return spoken or [kind for kind in TYPES if kind != "integer"]
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not kinds or any(kind not in TYPES for kind in kinds):
            refuse(f"{place}/type", f"a type is one of {', '.join(TYPES)}")
        return [kind for kind in dict.fromkeys(kinds) if kind != "integer" or "number" not in kinds]

    def _check_known(self, schema: Schema, kinds: Iterable[str], place: str) -> None:
        known = NOTES | _ANY_TYPE | {key for keys in _KNOWN.values() for key in keys}
        for key in schema:
            if key not in known and not key.startswith("x-"):
                refuse(f"{place}/{key}", f"{_BEYOND}; leave it out, or ask a model elsewhere")

    def _typed(self, schema: Schema, kind: str, place: str) -> str:
        match kind:
            case "string":
                return self._string(schema, place)
            case "integer" | "number":
                return number_rule(schema, kind, place)
            case "array":
                return self._array(schema, place)
            case "object":
                return self._object(schema, place)
        return kind

    # Values, references, alternatives

    def _values(self, values: list[Any], schema: Schema, place: str) -> str:
        kinds = self._kinds(schema, place) if "type" in schema else None
        others = schema.keys() - NOTES - {"const", "enum", "type"}
        if others:
            refuse(f"{place}/{min(others)}", "beside a list of values nothing else can be asked for")
        fitting = [value for value in values if kinds is None or any(is_a(value, kind) for kind in kinds)]
        if not fitting:
            refuse(place, "no value fits")
        if len(fitting) > MOST_VALUES:
            refuse(place, f"{len(fitting)} values are too many; {MOST_VALUES} can be told apart")
        return " | ".join(literal(dump(value, place)) for value in fitting)

    def _reference(self, schema: Schema, place: str) -> str:
        reference = schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#"):
            refuse(f"{place}/$ref", "only places in this schema (#/…) can be referred to")
        others = {key: value for key, value in schema.items() if key != "$ref" and key not in NOTES}
        if others:
            return self._visit({"allOf": [{"$ref": reference}, others]}, place)
        if reference in self._following:
            refuse(f"{place}/$ref", "it refers to itself and says nothing")
        if reference not in self._targets:
            self._targets[reference] = name = f"r{len(self._rules)}"
            self._rules[name] = ""
            target = self._demands.target(reference, place)
            if isinstance(target, dict) and "$ref" in target:
                self._following.append(reference)
                self._rules[name] = self._visit(target, reference)
                self._following.pop()
            else:
                following, self._following = self._following, []
                self._rules[name] = self._visit(target, reference)
                self._following = following
        return self._targets[reference]

    def _alternatives(self, schema: Schema, key: str, place: str) -> str:
        choices = list_of(schema, key, place)
        if not choices:
            refuse(f"{place}/{key}", "there is nothing to choose from")
        rest = {name: value for name, value in schema.items() if name not in NOTES and name != key}
        if key == "oneOf":
            self._demands.check_apart(choices, f"{place}/oneOf")
        made = []
        for number, choice in enumerate(choices):
            where = f"{place}/{key}/{number}"
            whole = choice if not rest else self._demands.merge(rest, self._demands.resolved(choice, where), where)
            if whole is not False:
                made.append(self._rule(self._visit(whole, where)))
        if not made:
            refuse(f"{place}/{key}", "none of it can fit")
        return " | ".join(made)

    # Strings, arrays, objects

    def _string(self, schema: Schema, place: str) -> str:
        least, most = bounds(schema, "minLength", "maxLength", _MOST_CHARACTERS, place)
        if "pattern" in schema:
            return self._pattern(schema, least, most, place)
        form = schema.get("format")
        if isinstance(form, str) and form in FORMATS:
            if least or most is not None:
                refuse(f"{place}/format", "a format has its own length: leave minLength and maxLength out")
            return f'"\\"" {FORMATS[form]} "\\""'
        if not least and most is None:
            return "string"
        return f'"\\"" {self._repeat("char", least, most)} "\\""'

    def _pattern(self, schema: Schema, least: int, most: int | None, place: str) -> str:
        if not isinstance(schema["pattern"], str):
            refuse(f"{place}/pattern", "a pattern is a text")
        try:
            pattern = patterns.convert(schema["pattern"])
        except patterns.Unsupported as error:
            refuse(f"{place}/pattern", str(error))
        if pattern.least < least or (most is not None and (pattern.most is None or pattern.most > most)):
            refuse(f"{place}/pattern", "minLength and maxLength must be part of the pattern, like ^.{1,20}$")
        return f'"\\"" {pattern.rule} "\\""'

    def _array(self, schema: Schema, place: str) -> str:
        least, most = bounds(schema, "minItems", "maxItems", _MOST_ITEMS, place)
        if schema.get("uniqueItems") and (most is None or most > 1):
            refuse(f"{place}/uniqueItems", f"{_BEYOND}, which does not know what it has written; leave it out")
        first = list_of(schema, "prefixItems", place) if "prefixItems" in schema else []
        items = schema.get("items", True)
        if items is False:
            most = min(len(first), most if most is not None else len(first))
            if least > most:
                refuse(place, "more items are demanded than there can be")
        leading = [self._named(item, f"{place}/prefixItems/{number}") for number, item in enumerate(first[:most])]
        further = "" if items is False or len(leading) == most else self._named(items, f"{place}/items")
        return f'"[" {self._items(leading, further, least, most)} "]"'

    def _items(self, leading: list[str], further: str, least: int, most: int | None) -> str:
        """Items with commas between them: the leading ones each of its kind, then any number of further ones."""
        if not leading:
            if not further or most == 0:
                return '""'
            tail = self._repeat(f'"," ws {further}', max(least - 1, 0), None if most is None else most - 1)
            return f"{further} {tail}" if least else f"({further} {tail})?"
        rest = ""
        if further:
            rest = self._repeat(
                f'"," ws {further}', max(least - len(leading), 0), None if most is None else most - len(leading)
            )
        for number in range(len(leading) - 1, -1, -1):
            separator = '"," ws ' if number else ""
            rest = f"{separator}{leading[number]} {rest}".strip()
            if number >= least:
                rest = f"({rest})?"
        return rest

    def _named(self, schema: Any, place: str) -> str:
        """The name of a rule for a schema."""
        text = self._visit(schema, place)
        return text if text.replace("-", "").isalnum() else self._rule(text)

    def _object(self, schema: Schema, place: str) -> str:
        properties = schema.get("properties", {})
        required = list_of(schema, "required", place) if "required" in schema else []
        extra = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            refuse(f"{place}/properties", "properties are an object")
        names = list(properties)
        for name in required:
            if not isinstance(name, str):
                refuse(f"{place}/required", "names are texts")
            if name not in properties:
                if extra is False:
                    refuse(f"{place}/required", f"{name!r} is demanded, and no property may be added")
                names.append(name)
        self._check_count(schema, len(required), place)
        possible = []
        for name in names:
            wanted = properties.get(name, extra)
            if wanted is False:
                if name in required:
                    refuse(f"{place}/properties/{name}", "it is demanded, and nothing fits false")
                continue
            value = self._named(wanted, f"{place}/properties/{_escape(name)}")
            possible.append((f'{literal(dump(name, place))} ":" ws {value}', name in required))
        further = ""
        if extra is not False and (not names or isinstance(extra, dict)):
            further = self._further(names, extra, place)
        least, most = bounds(schema, "minProperties", "maxProperties", _MOST_ITEMS, place)
        if not possible:
            return f'"{{" {self._items([], further, least if further else 0, most)} "}}"'
        return f'"{{" {self._members(possible, further)} "}}"'

    def _check_count(self, schema: Schema, required: int, place: str) -> None:
        """How many there are cannot be counted where some may be left out."""
        free = not schema.get("properties") and not schema.get("required")
        if free:
            return
        least, most = bounds(schema, "minProperties", "maxProperties", _MOST_ITEMS, place)
        possible = len(schema.get("properties", {}))
        if least > required:
            refuse(f"{place}/minProperties", "name those that must be there in required")
        if most is not None and (most < possible or isinstance(schema.get("additionalProperties"), dict)):
            refuse(f"{place}/maxProperties", "leave out what must not be there")

    def _further(self, names: list[str], extra: Any, place: str) -> str:
        """A property that the schema does not name, under any name but those."""
        value = self._named(extra, f"{place}/additionalProperties")
        name = self._rule(_other_than([dump(known, place)[1:-1] for known in names])) if names else "string"
        key = f'"\\"" {name} "\\""' if names else name
        return self._rule(f'{key} ":" ws {value}')

    def _members(self, possible: list[tuple[str, bool]], further: str) -> str:
        """Properties in order, those that may be left out with their commas.

        Two rules a property: what may follow if none was written yet, and if one was.
        """
        after = self._rule(f'("," ws {further})*') if further else '""'
        begin = self._rule(f'({further} ("," ws {further})*)?') if further else '""'
        for member, required in reversed(possible):
            if required:
                begin = self._rule(f"{member} {after}")
                after = self._rule(f'"," ws {member} {after}')
            else:
                begin = self._rule(f"{member} {after} | {begin}")
                after = self._rule(f'("," ws {member})? {after}')
        return begin

    def _repeat(self, item: str, least: int, most: int | None) -> str:
        """An item so many times."""
        if most is None:
            name = self._rule(item) if " " in item else item
            return f"{self._exactly(name, least)} {name}*".strip()
        name = self._rule(item) if " " in item else item
        return f"{self._exactly(name, least)} {self._up_to(name, most - least)}".strip() or '""'

    def _exactly(self, name: str, count: int) -> str:
        blocks, rest = divmod(count, _BLOCK)
        if not blocks:
            return f"{name}{{{rest}}}" if rest else ""
        block = self._rule(f"{name}{{{_BLOCK}}}")
        return " ".join([*[block] * blocks, *([f"{name}{{{rest}}}"] if rest else [])])

    def _up_to(self, name: str, count: int) -> str:
        blocks, rest = divmod(count, _BLOCK)
        made = f"{name}{{0,{rest}}}" if rest else ""
        if not blocks:
            return made
        block = self._rule(f"{name}{{{_BLOCK}}}")
        fewer = self._rule(f"{name}{{0,{_BLOCK - 1}}}")
        for _ in range(blocks):
            made = self._rule(f"{fewer} | {block} {made}")
        return made


def _other_than(names: list[str]) -> str:
    """Names without escapes that are none of ``names``: a tree over their characters."""
    first: dict[str, list[str]] = {}
    for name in names:
        if name:
            first.setdefault(name[0], []).append(name[1:])
    barred = "".join(patterns.spelled(character) for character in first)
    parts = [f'[^{barred}"\\\\\\x00-\\x1F\\x7F] plain*']
    for character, rests in first.items():
        if character != "\\":
            parts.append(f"{literal(character)} ({_other_than(rests)})")
    if "" not in names:
        parts.append('""')
    return " | ".join(parts)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
