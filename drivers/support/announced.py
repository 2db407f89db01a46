"""An announced entity at work: what its topics say becomes its value, and a command becomes messages to its topics.

A :class:`Thing` knows no connection: it is given messages (:meth:`Thing.hear`) and asked for messages
(:meth:`Thing.told`). What it has is in ``kinds.py``, one function a kind of entity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from drivers.base import DriverError
from drivers.support.discovery import Announced, BadAnnouncement, BadTemplate
from drivers.support.kinds import KINDS
from drivers.support.parts import UNREAD, Json, either, reader, topic_of


class Change(Struct, frozen=True):
    """Something to tell: ``kind`` is ``changed``, ``event``, ``lost`` or ``back``."""

    kind: str
    value: Any
    attrs: Json


class Thing:
    """Used by one thread at a time. Raises ``BadAnnouncement`` for what cannot be used."""

    def __init__(self, announced: Announced) -> None:
        self.id = announced.id
        self.name = announced.name
        self.device = announced.device
        self.component = announced.component
        self.config = announced.config
        self.unit = str(announced.config.get("unit_of_measurement") or "")
        build = KINDS.get(announced.component)
        if build is None:
            raise BadAnnouncement(f"{announced.component} is a kind that is not known here")
        try:
            self.parts = build(announced.config)
            self._places = _places(announced.config)
        except (BadTemplate, TypeError, ValueError, KeyError, AttributeError) as exc:
            raise BadAnnouncement(f"{type(exc).__name__}: {exc}") from None
        self.retain = announced.config.get("retain") is True
        self.value: Any = None
        self.attrs: Json = {}
        self.known = False
        self.online: bool | None = None
        self._online_at: dict[str, bool] = {}

    def topics(self) -> set[str]:
        """What has to be subscribed to."""
        return {each.topic for each in self.parts.fields} | set(self._places)

    def hear(self, topic: str, payload: bytes) -> list[Change]:
        """What a message changes. Raises ``BadTemplate`` for one that cannot be read."""
        text = payload.decode("utf-8", "replace")
        changes = self._hear_of_availability(topic, text)
        news: Json = {}
        for each in self.parts.fields:
            if each.topic == topic and (value := each.read(text)) is not UNREAD:
                news |= value if each.name == "*" else {each.name: value}
        if news:
            changes += self._took(news)
        return changes

    def state(self) -> Change:
        """What is known of it."""
        return Change("changed", self.value, dict(self.attrs))

    def assume(self, command: Json) -> list[Change]:
        """An entity that never tells its state has the one that it was last told."""
        if any(each.name in ("value", "*") for each in self.parts.fields) or self.parts.is_event:
            return []
        return self._took(dict(command))

    def told(self, command: Json) -> list[tuple[str, str]]:
        """Topic and payload of each message that carries out a command. Raises ``DriverError``."""
        orders = self.parts.orders
        if not orders:
            raise DriverError(f"{self.id} takes no commands", retryable=False)
        unknown = command.keys() - orders.keys()
        if unknown or not command:
            known = ", ".join(orders)
            raise DriverError(f"{self.id} knows {known}; not {', '.join(sorted(unknown)) or 'an empty command'}"[:500],
                              retryable=False)  # fmt: skip
        try:
            if self.parts.together is not None:
                for name, value in command.items():
                    orders[name].make(value)
                return [self.parts.together(command)]
            return [(orders[name].topic, orders[name].make(value)) for name, value in command.items()]
        except (BadTemplate, ValueError, TypeError, OverflowError) as exc:
            raise DriverError(f"{self.id}: {exc}"[:500], retryable=False) from None

    def schema(self) -> Json:
        """JSON Schema of a command."""
        if not self.parts.orders:
            return {}
        properties = {name: order.schema for name, order in self.parts.orders.items()}
        required = ["entity"] + (["value"] if "value" in properties and not self.parts.optional else [])
        return {
            "type": "object",
            "properties": {"entity": {"const": self.id}, **properties},
            "required": required,
            "additionalProperties": False,
        }

    def _took(self, news: Json) -> list[Change]:
        if self.parts.is_event:
            return [Change("event", news.pop("value", None), news)]
        before = (self.known, self.value, dict(self.attrs))
        if "value" in news:
            self.value, self.known = news.pop("value"), True
        self.attrs |= news
        forced = self.config.get("force_update") is True
        if (self.known, self.value, self.attrs) == before and not forced:
            return []
        return [self.state()]

    def _hear_of_availability(self, topic: str, text: str) -> list[Change]:
        place = self._places.get(topic)
        said = place(text) if place is not None else None
        if said is None:
            return []
        self._online_at[topic] = said
        mode, told = self.config.get("availability_mode", "latest"), self._online_at.values()
        online = {"all": all(told), "any": any(told)}.get(str(mode), said)
        if len(told) < len(self._places) and online is (mode == "all"):
            return []  # the places that have not spoken yet may say otherwise
        before, self.online = self.online, online
        if online == before or (online and before is None):
            return []
        return [Change("back" if online else "lost", None if online else "the device says that it is off line", {})]


def _places(config: Json) -> dict[str, Callable[[str], bool | None]]:
    """By topic, what a message there says: on line, off line, or nothing."""
    given = config.get("availability")
    entries = list(given) if isinstance(given, list) else []
    if config.get("availability_topic"):
        own: Json = {key: config[key] for key in ("payload_available", "payload_not_available") if key in config}
        own |= {"topic": config["availability_topic"], "value_template": config.get("availability_template")}
        entries.append(own)
    places: dict[str, Callable[[str], bool | None]] = {}
    for entry in entries:
        if topic := topic_of(entry, "topic"):
            places[topic] = _place(entry)
    return places


def _place(entry: Json) -> Callable[[str], bool | None]:
    states = either(entry, ("payload_available",), ("payload_not_available",), ("online", "offline"))
    read = reader(entry, "value_template", states)

    def said(text: str) -> bool | None:
        value = read(text)
        return value if isinstance(value, bool) else None

    return said
