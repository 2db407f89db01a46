"""The contract of a driver: code for one kind of hardware, or one source or sink of the operating system.

A driver is one file in this folder, named as its type; helpers that several files or a long one need lie in
``support/``. It imports this module, its own library (inside the functions that use it) and nothing else of ours, so
that a sensor box needs nothing of the appliance. Whoever runs it (the edge agent) calls, in this order::

    driver = find("gpio")(config, host)      # stores only
    driver.open()                            # takes the hardware; DriverError says what to do
    stop = driver.events(emit)               # begins to watch, on threads of its own; at most one watch at a time
    driver.write({"value": True})            # from any thread, while open
    stop(); driver.safe_state(); driver.close()

What can be plugged in later (a USB port, a camera) raises a retryable ``DriverError`` from ``open`` while it is away;
trying again every two seconds is cheap. Once open, a driver looks after replugs by itself.

Beside its own kinds of observation, every driver may emit these:

``initial``
    How things are when the watch begins; nothing has changed.
``lost``
    The source went away or stopped answering; ``value`` says why.
``gap``
    It is back; ``value`` is the number of seconds for which nothing could be seen.
``found``, ``gone``
    The source has appeared among the driver's entities, or left them; ``value`` is its name.
``overflow``
    More happened than the config's bound lets through; ``value`` is how many observations were left out.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

logger = logging.getLogger(__name__)


class DriverConfig(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Base of every driver's config; equal configs share one instance. Times are seconds."""


class DriverError(Exception):
    """What a person may see: the message says what to do.

    ``retryable`` says whether opening or commanding again later may help.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


class Observation(Struct, frozen=True):
    """One thing that a driver saw.

    ``source`` is what within the driver (``gpiochip0/17``, ``cpu``, a path, an entity's id), ``value`` and ``attrs``
    are JSON, ``at`` is Unix seconds (UTC) by this machine's clock. When an outbox is full, the lowest ``priority``
    goes first: readings that come again and again have -1.
    """

    source: str
    kind: str
    value: Any
    at: float
    attrs: dict[str, Any] = {}
    priority: int = 0


class Entity(Struct, frozen=True):
    """One thing of a driver that the devices page shows.

    ``id`` is the ``source`` of its observations, ``kind`` is ``binary``, ``number``, ``text``, ``event`` or ``image``;
    ``commands`` is the JSON Schema of a command to it, if it is ``writable``.
    """

    id: str
    name: str
    kind: str
    unit: str = ""
    writable: bool = False
    commands: dict[str, Any] = {}


Emit = Callable[[Observation], None]  # never blocks, safe from any thread
Stop = Callable[[], None]  # ends the threads before it returns; calling it twice is fine


class Host(Protocol):
    """What a driver receives from whoever runs it."""

    def now(self) -> float:
        """Unix seconds, UTC."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def state(self, name: str) -> Path:
        """A file of the driver's own that survives restarts; its folder exists, the file perhaps not yet."""

    def blob(self, data: bytes, mime: str) -> dict[str, Any]:
        """Keep a large value; returns ``{"$blob": sha256, "size": n, "type": mime}``."""


C = TypeVar("C", bound=DriverConfig)
D = TypeVar("D", bound=Struct)


class Driver(Generic[C]):
    """One instance is one config. All methods are safe from any thread."""

    type: ClassVar[str] = ""
    title: ClassVar[str] = ""
    Config: ClassVar[builtins.type[DriverConfig]] = DriverConfig

    def __init__(self, config: C, host: Host) -> None:
        self.config = config
        self.host = host

    @classmethod
    def unavailable(cls) -> str:
        """Why this machine cannot have the driver at all and what to do, or ``""``."""
        return ""

    @classmethod
    def resources(cls, config: C) -> tuple[str, ...]:
        """The exclusive resources that a config names (``gpio:*/17``), as far as it tells them without the machine."""
        return ()

    def claims(self) -> tuple[str, ...]:
        """The exclusive resources that an open instance holds (``gpio:gpiochip0/17``); may look at the machine."""
        return self.resources(self.config)

    def open(self) -> None:
        """Take the hardware. Raises ``DriverError``; opening what is open is fine."""

    def close(self) -> None:
        """Give it back. Any number of times."""

    def events(self, emit: Emit) -> Stop:
        """Begin to watch; returns its stop. Raises ``DriverError`` if it is not open or has nothing to watch."""
        raise DriverError(f"{self.type} has no events", retryable=False)

    def write(self, command: Mapping[str, Any]) -> Any:
        """Carry out a command, blocking; returns its acknowledgement (JSON). Raises ``DriverError``."""
        raise DriverError(f"{self.type} takes no commands", retryable=False)

    def safe_state(self) -> None:
        """Put the outputs into their declared safe state. Never raises; works while ``open`` holds them."""

    def entities(self) -> list[Entity]:
        """What the devices page shows of it."""
        return []


def decode(kind: type[D], raw: Mapping[str, Any]) -> D:
    """A config or command from JSON values. Raises ``DriverError`` naming the field."""
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, TypeError) as exc:
        raise DriverError(_complaint(str(exc), kind), retryable=False) from None


_MISSING = re.compile(r"Object missing required field `(.+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")


def _complaint(text: str, kind: type[Any]) -> str:
    """msgspec's words with the place in front: ``limits[0].above: expected `float`, got `str` ``."""
    message, _, place = text.partition(" - at `$")
    place = place.removesuffix("`").removeprefix(".")
    if missing := _MISSING.fullmatch(message):
        return f"{place}.{missing[1]}: is required".removeprefix(".")
    if unknown := _UNKNOWN.fullmatch(message):
        there = "" if place else ", ".join(getattr(kind, "__struct_encode_fields__", ()))
        return f"{place}.{unknown[1]}: no such field{there and '; there are '}{there}".removeprefix(".")
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message


def decode_command(kind: type[D], raw: Mapping[str, Any], source: str) -> D:
    """A command to a driver with one entity, ``source``, which may be named. Raises ``DriverError``."""
    if "entity" in raw:
        if raw["entity"] != source:
            raise DriverError(f"there is no entity {raw['entity']!r} here, only {source!r}", retryable=False)
        raw = {name: value for name, value in raw.items() if name != "entity"}
    return decode(kind, raw)


def names() -> list[str]:
    """The types of all drivers; imports none of them."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_") and file.stem != "base")


def find(type: str) -> type[Driver[Any]]:  # noqa: A002 the field's own term
    """The driver of a type. Raises ``DriverError`` where there is none or it cannot be loaded."""
    if type not in names():
        raise DriverError(f"there is no driver {type!r}; there are {', '.join(names())}", retryable=False)
    try:
        module = importlib.import_module(f"drivers.{type}")
    except Exception as exc:
        raise DriverError(f"the driver {type!r} cannot be loaded: {exc}", retryable=False) from exc
    found = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, builtins.type) and issubclass(thing, Driver) and thing.__module__ == module.__name__
    ]
    if len(found) != 1 or found[0].type != type:
        raise DriverError(f"drivers/{type}.py must define exactly one Driver, of type {type!r}", retryable=False)
    return found[0]


def all_types() -> dict[str, type[Driver[Any]]]:
    """Every driver that can be loaded; one that cannot is logged and left out."""
    found: dict[str, type[Driver[Any]]] = {}
    for name in names():
        try:
            found[name] = find(name)
        except DriverError as exc:
            logger.warning("%s", exc.message)
    return found
