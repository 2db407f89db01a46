"""How JSON Schema asks for several things at once: ``$ref``, ``allOf``, and whether ``oneOf`` is clear. Pure."""

from __future__ import annotations

from typing import Any

from appliance.ai.grammar.words import NOTES, TYPES, Schema, as_list, is_a, list_of, refuse, within


class Demands:
    """The schema that is looked at as a whole, ``root``: references point into it."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def target(self, reference: str, place: str) -> Any:
        """What a reference (``#/…``) points to."""
        found = self._root
        for part in reference[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                refuse(f"{place}/$ref", f"there is no {reference}")
        return found

    def check_apart(self, choices: list[Any], place: str) -> None:
        """Exactly one of ``oneOf`` may fit. Sure of that are choices of different types or with different constants."""
        resolved = [self.resolved(choice, f"{place}/{number}") for number, choice in enumerate(choices)]
        for number, choice in enumerate(resolved):
            for other in resolved[:number]:
                if not _apart(choice, other):
                    refuse(f"{place}/{number}", "an earlier choice may fit the same value: use anyOf")

    def resolved(self, schema: Any, place: str) -> Any:
        """A schema without ``$ref`` and ``allOf`` at its top."""
        turns = 0
        while isinstance(schema, dict) and {"$ref", "allOf"} & schema.keys():
            if (turns := turns + 1) > 32:
                refuse(place, "it refers to itself and says nothing")
            if "allOf" in schema:
                schema = self.merged(schema, place)
            else:
                others = {key: value for key, value in schema.items() if key != "$ref" and key not in NOTES}
                target = self.target(str(schema["$ref"]), place)
                schema = self.merge(others, target, place) if others else target
        return schema

    def merged(self, schema: Schema, place: str) -> Any:
        """``allOf`` taken together with what stands beside it."""
        merged: Any = {key: value for key, value in schema.items() if key != "allOf" and key not in NOTES}
        for number, part in enumerate(list_of(schema, "allOf", place)):
            where = f"{place}/allOf/{number}"
            merged = self.merge(merged, self.resolved(part, where), where)
        return merged

    def merge(self, one: Any, other: Any, place: str) -> Any:
        """A schema that asks for both; False if nothing can fit both."""
        if one in (True, {}) or other is False:
            return other
        if other in (True, {}) or one is False:
            return one
        if not isinstance(one, dict) or not isinstance(other, dict):
            refuse(place, "a schema is an object, true or false")
        one, other = self.resolved(one, place), self.resolved(other, place)
        merged = {key: value for key, value in one.items() if key not in NOTES}
        for key, value in other.items():
            if key in NOTES and key != "format":
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
                kinds = [kind for kind in as_list(merged[key]) if within(kind, as_list(value))]
                kinds += [kind for kind in as_list(value) if kind not in kinds and within(kind, as_list(merged[key]))]
                if not kinds:
                    return False
                merged[key] = kinds
            elif key == "enum":
                merged[key] = [item for item in merged[key] if item in value]
            elif key in ("items", "additionalProperties"):
                merged[key] = {"allOf": [merged[key], value]}
            else:
                refuse(f"{place}/{key}", "two different demands cannot be taken together")
        if ("const" in merged or "enum" in merged) and (one.keys() | other.keys()) & {"const", "enum"}:
            return self._narrowed(merged, place)
        return merged

    def _narrowed(self, merged: Schema, place: str) -> Any:
        """Values that were listed, without those that another part of ``allOf`` refuses."""
        values = [merged["const"]] if "const" in merged else merged["enum"]
        if "const" in merged and "enum" in merged:
            values = [value for value in values if value in merged["enum"]]
        kinds = as_list(merged["type"]) if "type" in merged else None
        others = merged.keys() - {"const", "enum", "type"} - NOTES
        if others:
            refuse(f"{place}/{min(others)}", "beside a list of values nothing else can be asked for")
        values = [value for value in values if kinds is None or any(is_a(value, kind) for kind in kinds)]
        return {"enum": values} if values else False


def _apart(one: Any, other: Any) -> bool:
    """Whether surely no value fits both."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    first, second = _possible(one), _possible(other)
    if first is not None and second is not None:
        return not any(value in second for value in first)
    kinds, others = _kinds_of(one), _kinds_of(other)
    if kinds and others and not any(within(kind, others) for kind in kinds):
        return not any(within(kind, kinds) for kind in others)
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
        return [kind for kind in TYPES if any(is_a(value, kind) for value in values)]
    return as_list(schema.get("type", []))
