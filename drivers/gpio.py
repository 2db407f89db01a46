"""One pin of the machine: its edges as events, or its level as an output.

`line` is the number of the pin on its chip (on a Raspberry Pi the BCM number) or its name (`GPIO17`). `chip` is a name
(`gpiochip0`), a label (`pinctrl-bcm2711`) or empty: then the chip that has a line of that name, or the pin header's.
`value` is logical: with `active_low` a pin at 0 V is `true`.

An input tells its level as `initial` when the watch begins, then each edge as `changed` with the kernel's own time.
`debounce` seconds long a level must hold to count; buttons need 0.005 to 0.05. More than `max_rate` edges a second
are not told one by one: once a second `overflow` says how many were left out, and `changed` what the level is now.

An output is put to `initial` when it is opened and to `safe` when the agent ends or has lost its appliance. Commands:

    {"value": true}
    {"value": true, "pulse": 0.5}
    {"read": true}

A pulse ends with the level before it; a newer command ends it early. Pins that can do PWM: see the driver `pwm`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, json

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop, decode_command
from drivers.support import gpiochips
from drivers.support.rate import Bound
from drivers.support.worker import Watch, Worker

#: Edges that the kernel keeps for us; what does not fit is counted by its sequence numbers.
KERNEL_BUFFER = 256
#: Seconds between looks at a pin that chatters, and at a chip that was unplugged.
_CHATTER_PAUSE = 0.1
_REPLUG_PAUSE = 1.0


class GpioConfig(DriverConfig, frozen=True):
    line: Annotated[
        Annotated[int, Meta(ge=0)] | Annotated[str, Meta(min_length=1)],
        Meta(title="Line", description="Its number on the chip, or its name"),
    ]
    chip: Annotated[str, Meta(title="Chip", description="Name, label or path; empty: found by the line")] = ""
    direction: Annotated[Literal["input", "output"], Meta(title="Direction")] = "input"
    active_low: Annotated[bool, Meta(title="Active low", description="0 V counts as true")] = False
    bias: Annotated[Literal["as-is", "pull-up", "pull-down", "disabled"], Meta(title="Bias")] = "as-is"
    edge: Annotated[Literal["both", "rising", "falling"], Meta(title="Input: edges to tell")] = "both"
    debounce: Annotated[float, Meta(title="Input: debounce", description="Seconds", ge=0, le=60)] = 0.0
    max_rate: Annotated[int, Meta(title="Input: most events a second", ge=1, le=5000)] = 100
    drive: Annotated[Literal["push-pull", "open-drain", "open-source"], Meta(title="Output: drive")] = "push-pull"
    initial: Annotated[bool, Meta(title="Output: value when opened")] = False
    safe: Annotated[bool, Meta(title="Output: safe value")] = False


class _Command(Struct, forbid_unknown_fields=True):
    value: bool | None = None
    pulse: Annotated[float, Meta(gt=0, le=60)] | None = None
    read: bool = False


class Gpio(Driver[GpioConfig]):
    type = "gpio"
    title = "GPIO pin"
    Config = GpioConfig
    folder: ClassVar[Path] = Path("/dev")

    def __init__(self, config: GpioConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.RLock()
        self._newer = threading.Condition(self._lock)  # notified by each command, for the pulse under way
        self._commands = 0
        self._place: gpiochips.Place | None = None
        self._line: gpiochips.Line | None = None
        self._watching = Watch()

    @classmethod
    def unavailable(cls) -> str:
        try:
            gpiochips.library()
        except DriverError as exc:
            return exc.message
        return "" if gpiochips.devices(cls.folder) else "this machine has no GPIO pins (no /dev/gpiochip*)"

    @classmethod
    def resources(cls, config: GpioConfig) -> tuple[str, ...]:
        return (f"gpio:{config.chip or '*'}/{config.line}",)

    def claims(self) -> tuple[str, ...]:
        try:
            place = self._place or gpiochips.find(self.folder, self.config.chip, self.config.line)
        except DriverError:
            return self.resources(self.config)
        return (f"gpio:{place.chip}/{place.offset}",)

    def open(self) -> None:
        with self._lock:
            if self._line is None:
                self._place = gpiochips.find(self.folder, self.config.chip, self.config.line)
                self._line = _take(self._place, self.config)

    def close(self) -> None:
        self._watching.end()
        with self._newer:
            self._supersede()
            self._release()

    def events(self, emit: Emit) -> Stop:
        name = f"gpio {self.config.line}"
        with self._lock:
            line = self._opened()
            if self.config.direction == "input":
                return self._watching.begin(name, emit, self._watch_input)
            stop = self._watching.begin(name, emit)
            self._tell("initial", self._level(line))
            return stop

    def write(self, command: Mapping[str, Any]) -> Any:
        wanted = decode_command(_Command, command, self._name())
        with self._newer:
            line = self._opened()
            if wanted.read and wanted.value is None and wanted.pulse is None:
                return {"value": self._level(line)}
            if wanted.value is None or wanted.read:
                raise DriverError('a command is {"value": true or false} or {"read": true}', retryable=False)
            if self.config.direction == "input":
                raise DriverError(f"line {self.config.line} is an input: it cannot be set", retryable=False)
            before = self._level(line)
            mine = self._supersede()
            self._set(wanted.value)
            if wanted.pulse is None:
                return {"value": wanted.value}
            if self._newer.wait_for(lambda: self._commands != mine, wanted.pulse):
                return {"value": wanted.value, "interrupted": True}
            self._set(before)
            return {"value": before, "pulse": wanted.pulse}

    def safe_state(self) -> None:
        with self._newer:
            if self._line is not None and self.config.direction == "output":
                self._supersede()
                try:
                    self._set(self.config.safe)
                except DriverError:
                    pass  # the chip is gone, and its pins with it

    def entities(self) -> list[Entity]:
        name = f"{self.config.chip} {self.config.line}".strip()
        if self.config.direction == "input":
            return [Entity(self._name(), f"Pin {name}", "binary")]
        schema = json.schema(_Command)["$defs"]["_Command"]
        return [Entity(self._name(), f"Pin {name}", "binary", writable=True, commands=schema)]

    # --- the line ---

    def _opened(self) -> gpiochips.Line:
        if self._line is None:
            raise DriverError(f"line {self.config.line} is not open")
        return self._line

    def _supersede(self) -> int:
        self._commands += 1
        self._newer.notify_all()
        return self._commands

    def _level(self, line: gpiochips.Line) -> bool:
        try:
            with self._lock:
                return line.level()
        except OSError as exc:
            raise gpiochips.refusal(exc, self._name()) from exc

    def _set(self, value: bool) -> None:
        line = self._opened()
        changed = self._level(line) != value
        try:
            line.set(value)
        except OSError as exc:
            raise gpiochips.refusal(exc, self._name()) from exc
        if changed:
            self._tell("changed", value)

    def _release(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.release()

    def _name(self) -> str:
        return f"{self._place.chip}/{self._place.offset}" if self._place else str(self.config.line)

    def _tell(self, kind: str, value: Any, at: float | None = None, **attrs: Any) -> None:
        if self._place and self._place.name:
            attrs["line"] = self._place.name
        self._watching.tell(Observation(self._name(), kind, value, self.host.now() if at is None else at, attrs))

    # --- watching ---

    def _watch_input(self, worker: Worker) -> None:
        while not worker.stopping:
            try:
                self._follow(worker)
            except (OSError, DriverError) as exc:
                self._lost(worker, str(exc))

    def _follow(self, worker: Worker) -> None:
        """Tell edges until the watch ends. Raises ``OSError`` when the chip was unplugged."""
        line = self._opened()
        edges = Edges(self.config, self.host)
        level = self._level(line)
        self._tell("initial", level)
        while not worker.stopping:
            if not worker.wait((line.fd,)):
                continue
            for value, at in edges.read(line):
                self._tell("changed", value, at, edge="rising" if value else "falling")
                level = value
            while edges.chattering and worker.pause(_CHATTER_PAUSE):
                edges.skip(line)
                if edges.over:
                    self._tell("overflow", edges.report())
                    now = self._level(line)
                    if now != level:
                        level = now
                        self._tell("changed", now, resync=True)

    def _lost(self, worker: Worker, reason: str) -> None:
        """The chip (a USB adapter) was unplugged: wait until it is back."""
        began = self.host.monotonic()
        self._tell("lost", reason)
        with self._lock:
            self._release()
        while worker.pause(_REPLUG_PAUSE):
            try:
                self.open()
            except DriverError:
                continue
            self._tell("gap", round(self.host.monotonic() - began, 3))
            return


class Edges:
    """Edges of one line, at most ``max_rate`` a second; the rest is counted and left in the kernel."""

    def __init__(self, config: GpioConfig, host: Host) -> None:
        self._host = host
        self._bound = Bound(config.max_rate, host.monotonic)
        self._seen = 0
        self._quiet = False

    @property
    def chattering(self) -> bool:
        return self._bound.pending

    @property
    def over(self) -> bool:
        """Time for a report: a second is over, or the pin has come to rest."""
        return self._bound.due or (self._bound.pending and self._quiet)

    def report(self) -> int:
        return self._bound.report()

    def read(self, line: gpiochips.Line) -> list[tuple[bool, float]]:
        """The level after each edge that may be told, and its Unix time."""
        found = []
        # The kernel stamps edges by its monotonic clock, which no correction of the time ever turns back.
        offset = self._host.now() - time.clock_gettime(time.CLOCK_MONOTONIC)
        for edge in line.edges(KERNEL_BUFFER):
            self._count(edge)
            if self._bound.pending:
                self._bound.leave_out()
            elif self._bound.take():
                found.append((edge.level, offset + edge.nanoseconds / 1e9))
        return found

    def skip(self, line: gpiochips.Line) -> None:
        """Throw away what has come meanwhile."""
        self._quiet = True
        while line.waiting():
            edges = line.edges(KERNEL_BUFFER)
            self._quiet = False
            for edge in edges:
                self._count(edge)
            self._bound.leave_out(len(edges))
            if len(edges) < KERNEL_BUFFER:
                break

    def _count(self, edge: gpiochips.Edge) -> None:
        """Sequence numbers begin at 1 and have no holes, except for what the kernel had no room for."""
        self._bound.leave_out(edge.number - self._seen - 1)
        self._seen = edge.number


def _take(place: gpiochips.Place, config: GpioConfig) -> gpiochips.Line:
    if config.direction == "output":
        return gpiochips.take_output(
            place, level=config.initial, drive=config.drive, active_low=config.active_low, bias=config.bias
        )
    return gpiochips.take_input(
        place,
        edge=config.edge,
        debounce=config.debounce,
        active_low=config.active_low,
        bias=config.bias,
        buffer=KERNEL_BUFFER,
    )
