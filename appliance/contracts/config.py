"""What the config of a plug-in is made of, and reading one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.contracts.errors import ConfigError

#: A Jinja2 expression without braces (``payload.t > 30``); the node evaluates it with ``ctx.eval``.
Expression = Annotated[str, Meta(extra_json_schema={"x-flowork-text": "expression"})]
#: Text that is never a template, such as the source of a script.
Code = Annotated[str, Meta(extra_json_schema={"x-flowork-text": "code"})]
#: Nodes and edges of an inner graph, run by :class:`Spawn` with ``flow=""``; has templates of its own.
Graph = Annotated[dict[str, Any], Meta(extra_json_schema={"x-flowork-text": "graph"})]
#: Seconds as a number, or text such as ``90s``, ``2m``, ``1h30m``, ``3d``; see :func:`seconds`.
Duration = Annotated[float | str, Meta(extra_json_schema={"x-flowork-text": "duration"})]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.ASCII)
#: What msgspec says of a text, a list or an object of the wrong length.
_LENGTH = re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)")
_LONGEST = 100 * 366 * 86400.0


def seconds(value: float | str) -> float:
    """A :data:`Duration` in seconds, 0 to 100 years. Raises ``ConfigError`` for anything else."""
    if isinstance(value, str):
        text = value.strip().lower()
        parts = _DURATION.findall(text)
        if not parts or _DURATION.sub("", text).strip():
            try:
                result = float(text)
            except ValueError:
                raise ConfigError(f"{value!r} is not a duration; write 90s, 2m, 1h30m or 3d") from None
        else:
            result = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        result = float(value)
    if not 0 <= result <= _LONGEST:
        raise ConfigError(f"{value!r} is not between 0 seconds and 100 years")
    return result


class Config(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Base of every config class. Text fields are templates unless typed ``Expression`` or ``Code``."""


C = TypeVar("C", bound=Config)


class Problem(Struct, frozen=True):
    """One fault found on save: ``path`` inside the config (``url``, ``rules[2].when``) and what to do."""

    path: str
    message: str


def decode(kind: type[C], raw: Mapping[str, Any]) -> C:
    """A config instance from JSON values. Raises ``ConfigError`` naming the field."""
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as exc:
        place, message = place_and_fault(exc)
        told = f"{place.removeprefix('.')}: {message}" if place else message[:1].upper() + message[1:]
        raise ConfigError(told) from None


def place_and_fault(exc: msgspec.ValidationError) -> tuple[str, str]:
    """A msgspec complaint as a place (``.retry.attempts``, or nothing) and a sentence."""
    message, _, place = str(exc).partition(" - at `$")
    if found := _LENGTH.fullmatch(message):
        count = int(found[3])
        one, many = ("character", "characters") if found[1] == "str" else ("entry", "entries")
        unit = one if count == 1 else many
        least = "must not be empty" if count == 1 else f"needs {count:,} {unit} or more"
        message = f"has more than {count:,} {unit}" if found[2] == "<=" else least
    return place.rstrip("`"), message[:1].lower() + message[1:]
