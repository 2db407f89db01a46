"""A node's or trigger's config: which of its texts are templates, and how it is rendered for a step.

Everything is read off the config class: a text typed ``Expression`` is compiled and left to the node,
``Code`` and ``Graph`` are left alone, any other text is a template. A config without templates is decoded once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect as shapes

from appliance.contracts import Config, ConfigError, ExpressionError, Problem, decode, seconds
from appliance.contracts.config import place_and_fault
from appliance.engine import expressions

Scope = Mapping[str, Any]
Renderer = Callable[[Scope], Any]


@functools.cache
def fields_of(kind: type[Config]) -> dict[str, shapes.Field]:
    """The config class's fields by name. Source: ``msgspec.inspect``."""
    info = shapes.type_info(kind)
    assert isinstance(info, shapes.StructType)
    return {f.encode_name: f for f in info.fields}


def _members(shape: shapes.Type) -> Iterator[tuple[shapes.Type, str]]:
    """The alternatives of a type, each with its kind of text."""
    text = ""
    while isinstance(shape, shapes.Metadata):
        text = (shape.extra_json_schema or {}).get("x-flowork-text", text)
        shape = shape.type
    if isinstance(shape, shapes.UnionType):
        for member in shape.types:
            for inner, inner_text in _members(member):
                yield inner, inner_text or text
    else:
        yield shape, text


def _text_kind(shape: shapes.Type) -> tuple[str, bool]:
    """How a text of this type is treated, and whether nothing but text is accepted."""
    kind, only_text = "", True
    for member, text in _members(shape):
        kind = kind or text
        only_text = only_text and isinstance(member, shapes.StrType | shapes.NoneType)
    return kind, only_text


def _inside(shape: shapes.Type, key: str | None) -> shapes.Type:
    """The type of a dict's value or struct's field (``key``), or of a list's item (``key`` None)."""
    for member, _ in _members(shape):
        if key is None and isinstance(member, shapes.ListType):
            return member.item_type
        if key is not None and isinstance(member, shapes.DictType):
            return member.value_type
        if key is not None and isinstance(member, shapes.StructType):
            for field in member.fields:
                if field.encode_name == key:
                    return field.type
    return shapes.AnyType()


def _texts(value: Any, shape: shapes.Type, path: str) -> Iterator[tuple[str, str, str, bool]]:
    """Every text with something to compile: (path, source, kind, only text is accepted)."""
    if isinstance(value, str):
        kind, only_text = _text_kind(shape)
        if kind == "expression" or (kind != "code" and expressions.is_template(value)):
            yield path, value, "expression" if kind == "expression" else "template", only_text
    elif isinstance(value, dict):
        if _text_kind(shape)[0] == "graph":
            return
        for key, item in value.items():
            yield from _texts(item, _inside(shape, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, _inside(shape, None), f"{path}[{index}]")


def texts(kind: type[Config], raw: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Every template and expression of a config, with its path."""
    found: list[tuple[str, str, str, bool]] = []
    for name, field in fields_of(kind).items():
        if name in raw:
            found.extend(_texts(raw[name], field.type, name))
    return found


def problems(kind: type[Config], raw: Mapping[str, Any]) -> list[Problem]:
    """All faults of a config, by field. A field with a template in it has its type checked at run time."""
    found = texts(kind, raw)
    result = [
        Problem(path, complaint)
        for path, source, text, _ in found
        if (complaint := expressions.check(source, text == "expression"))
    ]
    if not any(text == "template" for _, _, text, _ in found):
        try:
            value = msgspec.convert(raw, kind)
        except msgspec.ValidationError:
            pass
        else:
            return result + _duration_faults(kind, value)
    dynamic = {path.split(".")[0].split("[")[0] for path, _, text, _ in found if text == "template"}
    return result + _field_problems(kind, raw, dynamic)


def _duration_faults(kind: type[Config], value: Config) -> list[Problem]:
    faults = []
    for attribute, name in duration_fields(kind).items():
        given = getattr(value, attribute)
        if given is not None:
            try:
                seconds(given)
            except ConfigError as exc:
                faults.append(Problem(name, exc.message))
    return faults


@functools.cache
def duration_fields(kind: type[Config]) -> dict[str, str]:
    """The top-level fields that are durations: attribute and name in JSON."""
    return {f.name: f.encode_name for f in fields_of(kind).values() if _text_kind(f.type)[0] == "duration"}


def _field_problems(kind: type[Config], raw: Mapping[str, Any], dynamic: set[str]) -> list[Problem]:
    known = fields_of(kind)
    result = [Problem(name, f"no such setting; there are {', '.join(known)}") for name in raw if name not in known]
    for name, field in known.items():
        if name not in raw:
            if field.required:
                result.append(Problem(name, "is required"))
        elif name not in dynamic:
            try:
                msgspec.convert(raw[name], _annotation(kind, field.name))
            except msgspec.ValidationError as exc:
                result.append(problem_of(name, exc))
                continue
            if name in duration_fields(kind).values() and raw[name] is not None:
                try:
                    seconds(raw[name])
                except ConfigError as exc:
                    result.append(Problem(name, exc.message))
    return result


@functools.cache
def _annotation(kind: type[Config], name: str) -> Any:
    return get_type_hints(kind, include_extras=True)[name]


def problem_of(prefix: str, exc: msgspec.ValidationError) -> Problem:
    """A msgspec complaint as a place (``nodes[3]`` + ``.retry.attempts``) and a sentence."""
    place, message = place_and_fault(exc)
    return Problem(prefix + place, message)


class ConfigPlan:
    """A config ready for steps: decoded once if it is constant, else rendered each time."""

    __slots__ = ("_kind", "_render", "_texts", "constant", "dynamic", "names")

    def __init__(self, kind: type[Config], raw: Mapping[str, Any]) -> None:
        self._kind = kind
        names: set[str] = set()
        for _, source, text, only_text in texts(kind, raw):
            if text == "template":
                names |= _compiled(source, only_text)[0].names
        self.names = frozenset(names)
        renderers = {name: _renderer(raw[name], field.type) for name, field in fields_of(kind).items() if name in raw}
        dynamic = {name: r for name, r in renderers.items() if r is not None}
        self.constant = None if dynamic else decode(kind, raw)
        static = {name: value for name, value in raw.items() if name not in dynamic}
        self._render = (static, tuple(dynamic.items()))
        self.dynamic = tuple(dynamic)
        self._texts = {name: raw[name] for name in dynamic if isinstance(raw[name], str)}

    def rendered(self, scope: Scope) -> dict[str, Any]:
        """The config's values for a step. Raises ``ExpressionError``."""
        static, dynamic = self._render
        values = dict(static)
        for name, render in dynamic:
            try:
                values[name] = render(scope)
            except ExpressionError as exc:
                raise ExpressionError(f"config.{name}: {exc.message}") from None
        return values

    def decode(self, values: Mapping[str, Any]) -> Config:
        """The config instance of rendered values. Raises ``ConfigError``."""
        try:
            return decode(self._kind, values)
        except ConfigError as exc:
            name = re.split(r"[:.\[]", exc.message, maxsplit=1)[0]
            if name in self._texts and values.get(name) is None:
                raise ConfigError(f"{name}: there is no value for {self._texts[name]}") from None
            raise


def _compiled(source: str, only_text: bool) -> tuple[expressions.Compiled, bool]:
    """The compiled template, and whether it yields a native value instead of text."""
    inner = None if only_text else expressions.single(source)
    if inner is None:
        return expressions.template(source), False
    return expressions.expression(inner), True


def _renderer(value: Any, shape: shapes.Type) -> Renderer | None:
    """A function of the scope, or None where the value is constant."""
    if isinstance(value, str):
        return _text_renderer(value, shape)
    if isinstance(value, dict) and _text_kind(shape)[0] != "graph":
        parts = {key: _renderer(item, _inside(shape, key)) for key, item in value.items()}
        if any(parts.values()):
            return lambda scope: {k: r(scope) if r else value[k] for k, r in parts.items()}
    if isinstance(value, list):
        items = [_renderer(item, _inside(shape, None)) for item in value]
        if any(items):
            return lambda scope: [r(scope) if r else v for r, v in zip(items, value, strict=True)]
    return None


def _text_renderer(source: str, shape: shapes.Type) -> Renderer | None:
    kind, only_text = _text_kind(shape)
    if kind in {"expression", "code"} or not expressions.is_template(source):
        return None
    compiled, native = _compiled(source, only_text)
    return (lambda scope: expressions.plain(compiled(scope))) if native else compiled
