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
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

from appliance.ai.host.llama import digits, patterns
from appliance.contracts import ConfigError

_HEX = "[0-9A-Fa-f]"
#: Rules that are used as they are. Escapes neither NUL nor half characters (surrogates).
_RULES = {
    "ws": '" "?',
    "plain": r'[^"\\\x00-\x1F\x7F]',
    "char": r'plain | "\\" (["\\/bfnrt] | "u" ("00" [2-7] hex | "00" [A-Fa-f] hex | "0" [1-9A-Fa-f] hex hex | code))',
    "code": "[1-9A-Ca-cEeFf] hex hex hex | [Dd] [0-7] hex hex",
    "hex": _HEX,
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "string | number | object | array | boolean | null",
    "object": '"{" (string ":" ws value ("," ws string ":" ws value)*)? "}"',
    "array": '"[" (value ("," ws value)*)? "]"',
    "year": "[0-9]{4}",
    "date": 'year "-" (long31 "-" day31 | long30 "-" day30 | "02-" day28)',
    "long31": '"01" | "03" | "05" | "07" | "08" | "10" | "12"',
    "long30": '"04" | "06" | "09" | "11"',
    "day28": '"0" [1-9] | "1" [0-9] | "2" [0-8]',
    "day30": '"0" [1-9] | [12] [0-9] | "30"',
    "day31": '"0" [1-9] | [12] [0-9] | "3" [01]',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?',
    "zone": '"Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "uuid": "hex{8} " + " ".join(f'"-" hex{{{count}}}' for count in (4, 4, 4, 12)),
}
_FORMATS = {"date": "date", "time": "clock zone", "date-time": 'date "T" clock zone', "uuid": "uuid"}
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
#: What says nothing about the value. Formats beside those above are notes as well.
_NOTES = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema"),
    *("$id", "$anchor", "$defs", "definitions", "format", "contentMediaType", "contentEncoding", "discriminator"),
}
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
_MOST_CHARACTERS, _MOST_ITEMS, _MOST_VALUES = 1 << 16, 4096, 1024
_FEWEST_PLACES, _MOST_PLACES = 4, 9

#: Literals, classes and names in a rule.
_WORDS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[a-z][a-z0-9]*')

Schema = dict[str, Any]


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
        self._rules: dict[str, str] = {}
        #: Names of the rules of ``$ref`` targets; None while it is not known yet whether the target is only another.
        self._targets: dict[str, str] = {}
        self._following: list[str] = []

    def grammar(self) -> str:
        self._rules["root"] = self._reference({"$ref": "#"}, "#")
        rules, reached, queue = {**_RULES, **self._rules}, {}, ["root"]
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
            _refuse(place, "nothing fits false")
        if not isinstance(schema, dict):
            _refuse(place, "a schema is an object, true or false")
        if "$ref" in schema:
            return self._reference(schema, place)
        if "allOf" in schema:
            return self._visit(self._merged(schema, place), place)
        if "const" in schema:
            return self._values([schema["const"]], schema, place)
        if "enum" in schema:
            return self._values(_list(schema, "enum", place), schema, place)
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
            return spoken or [kind for kind in _TYPES if kind != "integer"]
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not kinds or any(kind not in _TYPES for kind in kinds):
            _refuse(f"{place}/type", f"a type is one of {', '.join(_TYPES)}")
        return [kind for kind in dict.fromkeys(kinds) if kind != "integer" or "number" not in kinds]

    def _check_known(self, schema: Schema, kinds: Iterable[str], place: str) -> None:
        known = _NOTES | _ANY_TYPE | {key for keys in _KNOWN.values() for key in keys}
        for key in schema:
            if key not in known and not key.startswith("x-"):
                _refuse(f"{place}/{key}", "a grammar cannot express this")

    def _typed(self, schema: Schema, kind: str, place: str) -> str:
        match kind:
            case "string":
                return self._string(schema, place)
            case "integer" | "number":
                return self._number(schema, kind, place)
            case "array":
                return self._array(schema, place)
            case "object":
                return self._object(schema, place)
        return kind

    # Values, references, alternatives

    def _values(self, values: list[Any], schema: Schema, place: str) -> str:
        kinds = self._kinds(schema, place) if "type" in schema else None
        others = schema.keys() - _NOTES - {"const", "enum", "type"}
        if others:
            _refuse(f"{place}/{min(others)}", "beside a list of values nothing else can be asked for")
        fitting = [value for value in values if kinds is None or any(_is_a(value, kind) for kind in kinds)]
        if not fitting:
            _refuse(place, "no value fits")
        if len(fitting) > _MOST_VALUES:
            _refuse(place, f"{len(fitting)} values are too many; {_MOST_VALUES} can be told apart")
        return " | ".join(_literal(_dump(value, place)) for value in fitting)

    def _reference(self, schema: Schema, place: str) -> str:
        reference = schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#"):
            _refuse(f"{place}/$ref", "only places in this schema (#/…) can be referred to")
        others = {key: value for key, value in schema.items() if key != "$ref" and key not in _NOTES}
        if others:
            return self._visit({"allOf": [{"$ref": reference}, others]}, place)
        if reference in self._following:
            _refuse(f"{place}/$ref", "it refers to itself and says nothing")
        if reference not in self._targets:
            self._targets[reference] = name = f"r{len(self._rules)}"
            self._rules[name] = ""
            target = self._target(reference, place)
            if isinstance(target, dict) and "$ref" in target:
                self._following.append(reference)
                self._rules[name] = self._visit(target, reference)
                self._following.pop()
            else:
                following, self._following = self._following, []
                self._rules[name] = self._visit(target, reference)
                self._following = following
        return self._targets[reference]

    def _target(self, reference: str, place: str) -> Any:
        found = self._root
        for part in reference[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                _refuse(f"{place}/$ref", f"there is no {reference}")
        return found

    def _alternatives(self, schema: Schema, key: str, place: str) -> str:
        choices = _list(schema, key, place)
        if not choices:
            _refuse(f"{place}/{key}", "there is nothing to choose from")
        rest = {name: value for name, value in schema.items() if name not in _NOTES and name != key}
        if key == "oneOf":
            self._check_apart(choices, f"{place}/oneOf")
        made = []
        for number, choice in enumerate(choices):
            where = f"{place}/{key}/{number}"
            whole = choice if not rest else self._merge(rest, self._resolved(choice, where), where)
            if whole is not False:
                made.append(self._rule(self._visit(whole, where)))
        if not made:
            _refuse(f"{place}/{key}", "none of it can fit")
        return " | ".join(made)

    def _check_apart(self, choices: list[Any], place: str) -> None:
        """Exactly one of ``oneOf`` may fit. Sure of that are choices of different types or with different constants."""
        resolved = [self._resolved(choice, f"{place}/{number}") for number, choice in enumerate(choices)]
        for number, choice in enumerate(resolved):
            for other in resolved[:number]:
                if not _apart(choice, other):
                    _refuse(f"{place}/{number}", "an earlier choice may fit the same value: use anyOf")

    def _resolved(self, schema: Any, place: str) -> Any:
        """A schema without ``$ref`` and ``allOf`` at its top."""
        turns = 0
        while isinstance(schema, dict) and {"$ref", "allOf"} & schema.keys():
            if (turns := turns + 1) > 32:
                _refuse(place, "it refers to itself and says nothing")
            if "allOf" in schema:
                schema = self._merged(schema, place)
            else:
                others = {key: value for key, value in schema.items() if key != "$ref" and key not in _NOTES}
                target = self._target(str(schema["$ref"]), place)
                schema = self._merge(others, target, place) if others else target
        return schema

    def _merged(self, schema: Schema, place: str) -> Any:
        """``allOf`` taken together with what stands beside it."""
        merged: Any = {key: value for key, value in schema.items() if key != "allOf" and key not in _NOTES}
        for number, part in enumerate(_list(schema, "allOf", place)):
            where = f"{place}/allOf/{number}"
            merged = self._merge(merged, self._resolved(part, where), where)
        return merged

    def _merge(self, one: Any, other: Any, place: str) -> Any:
        """A schema that asks for both; False if nothing can fit both."""
        if one in (True, {}) or other is False:
            return other
        if other in (True, {}) or one is False:
            return one
        if not isinstance(one, dict) or not isinstance(other, dict):
            _refuse(place, "a schema is an object, true or false")
        one, other = self._resolved(one, place), self._resolved(other, place)
        merged = {key: value for key, value in one.items() if key not in _NOTES}
        for key, value in other.items():
            if key in _NOTES and key != "format":
                continue
            if key not in merged or merged[key] == value:
                merged[key] = value
            elif key == "properties":
                both = dict(merged[key])
                for name, wanted in value.items():
                    both[name] = {"allOf": [both[name], wanted]} if name in both else wanted
                merged[key] = both
            elif key == "required":
                merged[key] = list(dict.fromkeys([*merged[key], *value]))
            elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
                merged[key] = max(merged[key], value)
            elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
                merged[key] = min(merged[key], value)
            elif key == "type":
                kinds = [kind for kind in _as_list(merged[key]) if _within(kind, _as_list(value))]
                kinds += [
                    kind for kind in _as_list(value) if kind not in kinds and _within(kind, _as_list(merged[key]))
                ]
                if not kinds:
                    return False
                merged[key] = kinds
            elif key == "enum":
                merged[key] = [item for item in merged[key] if item in value]
            elif key in ("items", "additionalProperties"):
                merged[key] = {"allOf": [merged[key], value]}
            else:
                _refuse(f"{place}/{key}", "two different demands cannot be taken together")
        if ("const" in merged or "enum" in merged) and (one.keys() | other.keys()) & {"const", "enum"}:
            return self._narrowed(merged, place)
        return merged

    def _narrowed(self, merged: Schema, place: str) -> Any:
        """Values that were listed, without those that another part of ``allOf`` refuses."""
        values = [merged["const"]] if "const" in merged else merged["enum"]
        if "const" in merged and "enum" in merged:
            values = [value for value in values if value in merged["enum"]]
        kinds = _as_list(merged["type"]) if "type" in merged else None
        others = merged.keys() - {"const", "enum", "type"} - _NOTES
        if others:
            _refuse(f"{place}/{min(others)}", "beside a list of values nothing else can be asked for")
        values = [value for value in values if kinds is None or any(_is_a(value, kind) for kind in kinds)]
        return {"enum": values} if values else False

    # Strings and numbers

    def _string(self, schema: Schema, place: str) -> str:
        least, most = _bounds(schema, "minLength", "maxLength", _MOST_CHARACTERS, place)
        if "pattern" in schema:
            return self._pattern(schema, least, most, place)
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS:
            if least or most is not None:
                _refuse(f"{place}/format", "a format has its own length: leave minLength and maxLength out")
            return f'"\\"" {_FORMATS[form]} "\\""'
        if not least and most is None:
            return "string"
        return f'"\\"" {self._repeat("char", least, most)} "\\""'

    def _pattern(self, schema: Schema, least: int, most: int | None, place: str) -> str:
        if not isinstance(schema["pattern"], str):
            _refuse(f"{place}/pattern", "a pattern is a text")
        try:
            pattern = patterns.convert(schema["pattern"])
        except patterns.Unsupported as error:
            _refuse(f"{place}/pattern", str(error))
        if pattern.least < least or (most is not None and (pattern.most is None or pattern.most > most)):
            _refuse(f"{place}/pattern", "minLength and maxLength must be part of the pattern, like ^.{1,20}$")
        return f'"\\"" {pattern.rule} "\\""'

    def _number(self, schema: Schema, kind: str, place: str) -> str:
        low, high = _limits(schema, place)
        step = schema.get("multipleOf")
        if step is not None and (not _is_a(step, "number") or step <= 0):
            _refuse(f"{place}/multipleOf", "it must be a number above 0")
        if step is not None and (kind == "number" or Decimal(str(step)) != 1):
            return self._steps(low, high, Decimal(str(step)), kind, place)
        if low is None and high is None:
            return kind
        found = [self._wholes(low, high)]
        if kind == "number":
            found += self._decimals(low, high)
        made = [part for part in found if part]
        if not made:
            _refuse(place, "no number lies between its bounds")
        return " | ".join(f"({part})" for part in made)

    def _wholes(self, low: _Limit | None, high: _Limit | None) -> str | None:
        first = low.value.to_integral_value(rounding="ROUND_CEILING") if low else None
        last = high.value.to_integral_value(rounding="ROUND_FLOOR") if high else None
        if low and low.open and first == low.value:
            first = low.value + 1
        if high and high.open and last == high.value:
            last = high.value - 1
        return digits.whole(None if first is None else int(first), None if last is None else int(last))

    def _decimals(self, low: _Limit | None, high: _Limit | None) -> Iterable[str | None]:
        """With one to a few digits behind the point, by what the bounds themselves have."""
        edge = Decimal(10) ** digits.LONGEST - 1
        bounds = [limit.value for limit in (low, high) if limit]
        places = max(_FEWEST_PLACES, *(min(_places(bound) + 1, _MOST_PLACES) for bound in bounds))
        for count in range(1, places + 1):
            unit = Decimal(1).scaleb(-count)
            first = low.value if low else -max(edge, abs(bounds[0]))
            last = high.value if high else max(edge, abs(bounds[0]))
            if low and low.open and first % unit == 0:
                first += unit
            if high and high.open and last % unit == 0:
                last -= unit
            yield digits.fixed(first, last, count)

    def _steps(self, low: _Limit | None, high: _Limit | None, step: Decimal, kind: str, place: str) -> str:
        """Multiples of a number, as a list of values: so there must be bounds."""
        if low is None or high is None:
            _refuse(f"{place}/multipleOf", "it needs a minimum and a maximum beside it")
        first = int((low.value / step).to_integral_value(rounding="ROUND_CEILING"))
        last = int((high.value / step).to_integral_value(rounding="ROUND_FLOOR"))
        first += low.open and first * step == low.value
        last -= high.open and last * step == high.value
        if last - first >= _MOST_VALUES:
            _refuse(
                f"{place}/multipleOf", f"its bounds hold {last - first + 1} values; {_MOST_VALUES} can be told apart"
            )
        found = [number * step for number in range(first, last + 1)]
        if kind == "integer":
            found = [value for value in found if value == value.to_integral_value()]
        if not found:
            _refuse(place, "no number fits")
        return " | ".join(_literal(_plain(value)) for value in found)

    # Arrays and objects

    def _array(self, schema: Schema, place: str) -> str:
        least, most = _bounds(schema, "minItems", "maxItems", _MOST_ITEMS, place)
        if schema.get("uniqueItems") and (most is None or most > 1):
            _refuse(f"{place}/uniqueItems", "a grammar cannot remember what was there already")
        first = _list(schema, "prefixItems", place) if "prefixItems" in schema else []
        items = schema.get("items", True)
        if items is False:
            most = min(len(first), most if most is not None else len(first))
            if least > most:
                _refuse(place, "more items are demanded than there can be")
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
        required = _list(schema, "required", place) if "required" in schema else []
        extra = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            _refuse(f"{place}/properties", "properties are an object")
        names = list(properties)
        for name in required:
            if not isinstance(name, str):
                _refuse(f"{place}/required", "names are texts")
            if name not in properties:
                if extra is False:
                    _refuse(f"{place}/required", f"{name!r} is demanded, and no property may be added")
                names.append(name)
        self._check_count(schema, len(required), place)
        possible = []
        for name in names:
            wanted = properties.get(name, extra)
            if wanted is False:
                if name in required:
                    _refuse(f"{place}/properties/{name}", "it is demanded, and nothing fits false")
                continue
            value = self._named(wanted, f"{place}/properties/{_escape(name)}")
            possible.append((f'{_literal(_dump(name, place))} ":" ws {value}', name in required))
        further = ""
        if extra is not False and (not names or isinstance(extra, dict)):
            further = self._further(names, extra, place)
        least, most = _bounds(schema, "minProperties", "maxProperties", _MOST_ITEMS, place)
        if not possible:
            return f'"{{" {self._items([], further, least if further else 0, most)} "}}"'
        return f'"{{" {self._members(possible, further)} "}}"'

    def _check_count(self, schema: Schema, required: int, place: str) -> None:
        """How many there are cannot be counted where some may be left out."""
        free = not schema.get("properties") and not schema.get("required")
        if free:
            return
        least, most = _bounds(schema, "minProperties", "maxProperties", _MOST_ITEMS, place)
        possible = len(schema.get("properties", {}))
        if least > required:
            _refuse(f"{place}/minProperties", "name those that must be there in required")
        if most is not None and (most < possible or isinstance(schema.get("additionalProperties"), dict)):
            _refuse(f"{place}/maxProperties", "leave out what must not be there")

    def _further(self, names: list[str], extra: Any, place: str) -> str:
        """A property that the schema does not name, under any name but those."""
        value = self._named(extra, f"{place}/additionalProperties")
        name = self._rule(_other_than([_dump(known, place)[1:-1] for known in names])) if names else "string"
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


class _Limit:
    """One bound of a number; ``open`` if the bound itself is outside."""

    def __init__(self, value: Decimal, *, open: bool) -> None:  # noqa: A002  the field's own term
        self.value = value
        self.open = open


def _limits(schema: Schema, place: str) -> tuple[_Limit | None, _Limit | None]:
    found: list[_Limit | None] = []
    for closed, opened, pick in (("minimum", "exclusiveMinimum", max), ("maximum", "exclusiveMaximum", min)):
        limits = []
        for key, is_open in ((closed, False), (opened, True)):
            if key in schema:
                if not _is_a(schema[key], "number"):
                    _refuse(f"{place}/{key}", "a bound is a number")
                limits.append(_Limit(Decimal(str(schema[key])), open=is_open))
        limits.sort(key=lambda limit: (limit.value, limit.open == (pick is max)))
        found.append(None if not limits else limits[-1] if pick is max else limits[0])
    return found[0], found[1]


def _bounds(schema: Schema, low: str, high: str, bound: int, place: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for key, value in ((low, least), (high, most)):
        if value is not None and (not _is_a(value, "integer") or value < 0):
            _refuse(f"{place}/{key}", "it must be a whole number from 0 on")
        if value is not None and value > bound:
            _refuse(f"{place}/{key}", f"{value} is too much for a grammar: {bound} at most")
    if most is not None and least > most:
        _refuse(f"{place}/{low}", f"it is more than {high}")
    return int(least), None if most is None else int(most)


def _apart(one: Any, other: Any) -> bool:
    """Whether surely no value fits both."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    first, second = _possible(one), _possible(other)
    if first is not None and second is not None:
        return not any(value in second for value in first)
    kinds, others = _kinds_of(one), _kinds_of(other)
    if kinds and others and not any(_within(kind, others) for kind in kinds):
        return not any(_within(kind, kinds) for kind in others)
    shared = set(one.get("required", ())) & set(other.get("required", ()))
    if kinds == others == ["object"]:
        return any(
            _apart(one.get("properties", {}).get(name, {}), other.get("properties", {}).get(name, {}))
            for name in shared
        )
    return False


def _possible(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def _kinds_of(schema: Schema) -> list[str]:
    values = _possible(schema)
    if values is not None:
        return [kind for kind in _TYPES if any(_is_a(value, kind) for value in values)]
    return _as_list(schema.get("type", []))


def _within(kind: str, kinds: list[str]) -> bool:
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_a(value: Any, kind: str) -> bool:
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


def _places(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _plain(value: Decimal) -> str:
    text = format(value.normalize(), "f")
    return "0" if text == "-0" else text


def _list(schema: Schema, key: str, place: str) -> list[Any]:
    found = schema[key]
    if not isinstance(found, list):
        _refuse(f"{place}/{key}", "it must be a list")
    return found


def _dump(value: Any, place: str) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        _refuse(place, "a text has half a character (a surrogate) in it")
    return text


def _literal(text: str) -> str:
    """A text in GBNF."""
    made = text.replace("\\", "\\\\").replace('"', '\\"').replace("\x7f", "\\x7F")
    return f'"{made}"'


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
            parts.append(f"{_literal(character)} ({_other_than(rests)})")
    if "" not in names:
        parts.append('""')
    return " | ".join(parts)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refuse(place: str, why: str) -> NoReturn:
    raise ConfigError(f"schema at {place}: {why}", detail={"place": place})
