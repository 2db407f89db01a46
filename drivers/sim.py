"""Simulated hardware: a thermometer, a lamp and a button, for trying things out without any.

The temperature swings between `low` and `high` once every `period` seconds and is told every `interval` seconds.
The lamp is an output with an initial and a safe state. The button is pressed by a command, and by itself every
`press_every` seconds if that is set. Two boards with different names know nothing of each other.

Events: `changed` of `temperature` and `lamp` (which is first told as `initial`), `pressed` of `button`. Commands:

    {"entity": "lamp", "value": true}
    {"entity": "button", "value": "press"}
    {"entity": "temperature", "value": 31.5}

The last one holds the temperature there, to see what a flow does; `null` lets it swing again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Observation, Stop, decode
from drivers.support.worker import Watch, Worker


class SimConfig(DriverConfig, frozen=True):
    name: Annotated[str, Meta(title="Name of the board", min_length=1, max_length=60)] = "board"
    interval: Annotated[float, Meta(title="Seconds between readings", ge=0.01, le=86400)] = 5.0
    low: Annotated[float, Meta(title="Lowest temperature", description="°C")] = 15.0
    high: Annotated[float, Meta(title="Highest temperature", description="°C")] = 25.0
    period: Annotated[float, Meta(title="Seconds of one swing", gt=0)] = 600.0
    press_every: Annotated[float, Meta(title="Seconds between presses", description="0: only by command", ge=0)] = 0.0
    initial: Annotated[bool, Meta(title="The lamp is lit at first")] = False
    safe: Annotated[bool, Meta(title="The lamp is lit in its safe state")] = False


class Lamp(msgspec.Struct, tag="lamp", tag_field="entity", forbid_unknown_fields=True):
    value: bool


class Button(msgspec.Struct, tag="button", tag_field="entity", forbid_unknown_fields=True):
    value: Literal["press"] = "press"


class Temperature(msgspec.Struct, tag="temperature", tag_field="entity", forbid_unknown_fields=True):
    value: float | None = None


class Sim(Driver[SimConfig]):
    type = "sim"
    title = "Simulated hardware"
    Config = SimConfig

    def __init__(self, config: SimConfig, host: Any) -> None:
        super().__init__(config, host)
        self._lock = threading.RLock()
        self._open = False
        self._lit = config.initial
        self._held: float | None = None
        self._watching = Watch()

    @classmethod
    def resources(cls, config: SimConfig) -> tuple[str, ...]:
        return (f"sim:{config.name}",)

    def open(self) -> None:
        with self._lock:
            if not self._open:
                self._open, self._lit, self._held = True, self.config.initial, None

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            self._open = False

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            self._must_be_open()
        return self._watching.begin(f"sim {self.config.name}", emit, self._watch)

    def write(self, command: Mapping[str, Any]) -> Any:
        wanted = _command(command)
        with self._lock:
            self._must_be_open()
            if isinstance(wanted, Lamp):
                self._light(wanted.value)
            elif isinstance(wanted, Button):
                self._tell("button", "pressed", "press")
            else:
                self._held = wanted.value
                self._tell("temperature", "changed", self._temperature(), unit="°C")
        return {"entity": command["entity"], "value": wanted.value}

    def safe_state(self) -> None:
        with self._lock:
            if self._open:
                self._light(self.config.safe)

    def entities(self) -> list[Entity]:
        return [
            Entity("temperature", f"{self.config.name}: temperature", "number", "°C", True, _schema(Temperature)),
            Entity("lamp", f"{self.config.name}: lamp", "binary", writable=True, commands=_schema(Lamp)),
            Entity("button", f"{self.config.name}: button", "event", writable=True, commands=_schema(Button)),
        ]

    # --- the board ---

    def _watch(self, worker: Worker) -> None:
        clock, every = self.host.monotonic, self.config.press_every
        read_at, press_at = clock(), clock() + every if every else math.inf
        with self._lock:
            self._tell("lamp", "initial", self._lit)
        while True:
            now = clock()
            with self._lock:
                if now >= read_at:
                    self._tell("temperature", "changed", self._temperature(), unit="°C")
                    read_at = now + self.config.interval
                if now >= press_at:
                    self._tell("button", "pressed", "press")
                    press_at = now + every
            if not worker.pause(min(read_at, press_at) - now):
                return

    def _light(self, value: bool) -> None:
        if value != self._lit:
            self._lit = value
            self._tell("lamp", "changed", value)

    def _temperature(self) -> float:
        if self._held is not None:
            return self._held
        middle, swing = (self.config.high + self.config.low) / 2, (self.config.high - self.config.low) / 2
        return round(middle + swing * math.sin(2 * math.pi * self.host.now() / self.config.period), 2)

    def _tell(self, source: str, kind: str, value: Any, **attrs: Any) -> None:
        priority = -1 if source == "temperature" else 0
        self._watching.tell(Observation(source, kind, value, self.host.now(), attrs, priority))

    def _must_be_open(self) -> None:
        if not self._open:
            raise DriverError(f"{self.config.name} is not open")


def _command(command: Mapping[str, Any]) -> Lamp | Button | Temperature:
    wanted: Lamp | Button | Temperature = decode(cast("Any", Lamp | Button | Temperature), command)
    return wanted


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one kind of command, without references."""
    schema = msgspec.json.schema(kind)
    found: dict[str, Any] = schema["$defs"][kind.__name__]
    return found
