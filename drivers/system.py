"""Health of this machine: CPU, temperature, memory, disk, network, battery, and a Pi's power supply.

`metrics` say what is read every `interval` seconds: `cpu`, `memory`, `disk`, `disk_wear`, `battery` in percent, `load`,
`temperature` in °C, `network_in` and `network_out` in kB/s, and, as true or false, `link`, `mains`, `undervoltage` and
`throttled` (a Raspberry Pi's firmware tells those two). `disk` is of the file system of `path`; the network is that of
`interface`, or all of them.

A limit is told when it has been passed for `hold` seconds (`high`, `low`), and when the value is `hysteresis` inside
it again (`normal`). True-or-false values are told as `changed`. `reading` tells every value each `readings` seconds:

    {"metrics": ["temperature"], "limits": [{"metric": "temperature", "above": 75, "hysteresis": 5, "hold": 30}]}
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop
from drivers.support.readings import Readings
from drivers.support.thresholds import Limits
from drivers.support.worker import Watch, Worker

Number = Literal["cpu", "load", "memory", "temperature", "disk", "disk_wear", "network_in", "network_out", "battery"]
Metric = Literal[
    "cpu",
    "load",
    "memory",
    "temperature",
    "disk",
    "disk_wear",
    "network_in",
    "network_out",
    "battery",
    "link",
    "mains",
    "undervoltage",
    "throttled",
]
_TRUTHS = {"link", "mains", "undervoltage", "throttled"}
_RATES = {"cpu", "network_in", "network_out"}
_UNITS = {"temperature": "°C", "network_in": "kB/s", "network_out": "kB/s", "load": ""}


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    metric: Annotated[Number, Meta(title="Of what")]
    above: Annotated[float | None, Meta(title="High above")] = None
    below: Annotated[float | None, Meta(title="Low below")] = None
    hysteresis: Annotated[float, Meta(title="As far inside it is normal again", ge=0)] = 0.0
    hold: Annotated[float, Meta(title="Seconds past the limit", ge=0)] = 0.0


class SystemConfig(DriverConfig, frozen=True):
    metrics: Annotated[tuple[Metric, ...], Meta(title="What to read", min_length=1)] = ("cpu", "memory", "disk")
    interval: Annotated[float, Meta(title="Seconds between readings", ge=0.05, le=86400)] = 10.0
    limits: Annotated[tuple[Limit, ...], Meta(title="Limits")] = ()
    readings: Annotated[float, Meta(title="Tell every value", description="Seconds; 0: never", ge=0)] = 0.0
    path: Annotated[str, Meta(title="Disk: a path on it")] = "/"
    interface: Annotated[str, Meta(title="Network: interface", description="Empty: all")] = ""


class System(Driver[SystemConfig]):
    type = "system"
    title = "Health of the machine"
    Config = SystemConfig
    root: ClassVar[Path] = Path("/")

    def __init__(self, config: SystemConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.Lock()
        self._open = False
        self._watching = Watch()

    def open(self) -> None:
        with self._lock:
            for limit in self.config.limits:
                if limit.metric not in self.config.metrics:
                    raise DriverError(f"limits: {limit.metric!r} is not among the metrics", retryable=False)
                if limit.above is None and limit.below is None:
                    raise DriverError(f"limits: {limit.metric!r} has neither above nor below", retryable=False)
            readings = self._readings()
            missing = [each for each in self.config.metrics if each not in _RATES and readings.read(each) is None]
            if missing:
                raise DriverError(f"this machine does not tell its {', '.join(missing)}: leave it out of the metrics")
            self._open = True

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            self._open = False

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            if not self._open:
                raise DriverError("the system driver is not open")
            return self._watching.begin("system", emit, self._watch)

    def entities(self) -> list[Entity]:
        return [
            Entity(metric, metric.replace("_", " ").capitalize(), "binary")
            if metric in _TRUTHS
            else Entity(metric, metric.replace("_", " ").capitalize(), "number", _UNITS.get(metric, "%"))
            for metric in self.config.metrics
        ]

    def _readings(self) -> Readings:
        return Readings(self.root, self.config.path, self.config.interface, self.host.monotonic)

    def _watch(self, worker: Worker) -> None:
        monitor = Monitor(self.config, self.host, self._readings(), self._watching.tell)
        monitor.look()
        while worker.pause(self.config.interval):
            monitor.look()


class Monitor:
    """Readings, held against the limits. For one thread."""

    def __init__(self, config: SystemConfig, host: Host, readings: Readings, tell: Emit) -> None:
        self._config = config
        self._host = host
        self._readings = readings
        self._tell = tell
        self._limits = [
            (limit, Limits(limit.above, limit.below, limit.hysteresis, limit.hold)) for limit in config.limits
        ]
        self._truths: dict[str, float | bool | None] = {}
        self._gone: dict[str, float] = {}
        self._told_at: float | None = None

    def look(self) -> None:
        """Read everything once and tell what there is to tell."""
        now = self._host.monotonic()
        values = {metric: self._readings.read(metric) for metric in self._config.metrics}
        for metric, value in values.items():
            self._mind_gaps(metric, value, now)
        known = {metric: value for metric, value in values.items() if value is not None}
        for metric, value in known.items():
            if metric in _TRUTHS and value != self._truths.get(metric):
                self._say(metric, "changed" if metric in self._truths else "initial", value)
                self._truths[metric] = value
        for limit, state in self._limits:
            reading = known.get(limit.metric)
            if reading is not None and state.update(float(reading), now):
                bounds = {"above": limit.above, "below": limit.below}
                self._say(limit.metric, state.zone, reading, **{k: v for k, v in bounds.items() if v is not None})
        every = self._config.readings
        if every and (self._told_at is None or now - self._told_at >= every):
            self._told_at = now
            for metric, value in known.items():
                self._say(metric, "reading", value)

    def _mind_gaps(self, metric: str, value: float | bool | None, now: float) -> None:
        """A battery that is taken out, a card that is pulled."""
        if value is None and metric not in self._gone and metric not in _RATES:
            self._gone[metric] = now
            self._say(metric, "lost", "it does not answer")
        elif value is not None and metric in self._gone:
            self._say(metric, "gap", round(now - self._gone.pop(metric), 3))

    def _say(self, metric: str, kind: str, value: Any, **attrs: Any) -> None:
        if unit := _UNITS.get(metric, "" if metric in _TRUTHS else "%"):
            attrs["unit"] = unit
        self._tell(Observation(metric, kind, value, self._host.now(), attrs, -1 if kind == "reading" else 0))
