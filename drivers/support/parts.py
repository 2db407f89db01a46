"""What an announced entity is made of: fields that are read from topics, orders that are written to topics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from drivers.support.templates import Template

Json = dict[str, Any]
Unread = type("Unread", (), {})
#: A message says nothing of this field.
UNREAD: Any = Unread()


class Field(Struct, frozen=True):
    """One value of an entity. The one named ``value`` is its state, the others are its attributes."""

    name: str
    topic: str
    read: Callable[[str], Any]  # JSON, or UNREAD; raises BadTemplate


class Order(Struct, frozen=True):
    """One thing that can be set. ``make`` gives the payload for a value, or raises ``ValueError``."""

    topic: str
    make: Callable[[Any], str]
    schema: Json


class Parts(Struct):
    """What a kind of entity has. ``confirms``: after a command ``value`` becomes what was asked for."""

    kind: str
    fields: list[Field]
    orders: dict[str, Order] = field(default_factory=dict)
    confirms: bool = False
    together: Callable[[Json], tuple[str, str]] | None = None  # all orders in one message
    is_event: bool = False
    optional: bool = False  # a command may leave ``value`` out


# --- reading ---


def text_of(config: Json, key: str) -> str:
    value = config.get(key)
    return value if isinstance(value, str) else ""


def topic_of(config: Json, key: str) -> str:
    """A topic to subscribe or publish to; empty if there is none."""
    topic = text_of(config, key)
    if "+" in topic or "#" in topic or "\0" in topic or len(topic.encode("utf-8", "replace")) > 65_535:
        raise ValueError(f"{key} {topic[:100]!r} is not the name of a topic")
    return topic


def reader(config: Json, template: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    source = text_of(config, template)
    compiled = Template(source) if source else None

    def read(payload: str) -> Any:
        text = compiled.read(payload) if compiled is not None else payload
        return UNREAD if text == "" else None if text == "None" else convert(text)

    return read


def found(config: Json, name: str, topic: str, template: str, convert: Callable[[str], Any]) -> list[Field]:
    """The field, if it was announced."""
    place = topic_of(config, topic)
    return [Field(name, place, reader(config, template, convert))] if place else []


def _number(text: str) -> Any:
    value = float(text) if len(text) < 400 else math.nan
    if not math.isfinite(value):
        return UNREAD
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def numeric(text: str) -> Any:
    try:
        return _number(text)
    except ValueError:
        return UNREAD


def either(config: Json, on: tuple[str, ...], off: tuple[str, ...], defaults: tuple[str, str]) -> Callable[[str], Any]:
    """``True`` and ``False`` for two payloads; the first key that is there names each."""
    yes = next((str(config[key]) for key in on if config.get(key) is not None), defaults[0])
    no = next((str(config[key]) for key in off if config.get(key) is not None), defaults[1])
    return lambda text: True if text == yes else False if text == no else UNREAD


def plain(text: str) -> Any:
    return text[:4000]


# --- writing ---

BOOL: Json = {"type": "boolean"}


def order(
    config: Json, topic: str, template: str, schema: Json, word: Callable[[Any], Any], variable: str = "value"
) -> Order | None:
    """An order, if it was announced. ``word`` gives what the device calls a value, or raises ``ValueError``."""
    place = topic_of(config, topic)
    if not place:
        return None
    source = text_of(config, template)
    compiled = Template(source) if source else None

    def make(value: Any) -> str:
        said = word(value)
        return compiled.render({"value": said, variable: said}) if compiled is not None else _said(said)

    return Order(place, make, schema)


def orders_of(**orders: Order | None) -> dict[str, Order]:
    return {name: order for name, order in orders.items() if order is not None}


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def switching(config: Json, on: str = "payload_on", off: str = "payload_off") -> Callable[[Any], str]:
    words = {True: str(config.get(on, "ON")), False: str(config.get(off, "OFF"))}

    def word(value: Any) -> str:
        if not isinstance(value, bool):
            raise ValueError("the value is true or false")
        return words[value]

    return word


def within(lowest: float, highest: float, scale: float = 1.0) -> Callable[[Any], Any]:
    def word(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise ValueError(f"the value is a number from {lowest:g} to {highest:g}")
        return value if scale == 1.0 else round(value * scale)

    return word


def span(config: Json, low: str, high: str, defaults: tuple[float, float]) -> tuple[Json, Callable[[Any], Any]]:
    lowest, highest = float(config.get(low, defaults[0])), float(config.get(high, defaults[1]))
    return {"type": "number", "minimum": lowest, "maximum": highest}, within(lowest, highest)


def one_of(choices: list[str]) -> tuple[Json, Callable[[Any], str]]:
    def word(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"the value is one of {', '.join(choices)}")
        return str(value)

    return {"enum": choices}, word


def choices_of(config: Json, key: str, default: tuple[str, ...] = ()) -> list[str]:
    given = config.get(key)
    return [str(each) for each in given][:200] if isinstance(given, list) else list(default)


def any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("the value is a text")
    return value
