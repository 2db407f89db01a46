"""Thermometers on a 1-Wire bus (DS18B20 and kin), as the kernel's w1 driver reads them.

`sensors` are their ids (`28-0316a2794fff`); left empty, all that are there or come later are read. A temperature is
told as `initial` when a sensor is first read, as `changed` when it differs by `change` or more, and as `reading` when
nothing was told for `every` seconds. A sensor that does not answer or whose checksum is wrong three times is `lost`.

A Raspberry Pi needs `dtoverlay=w1-gpio` in `/boot/firmware/config.txt`. The reading of one sensor takes 0.75 s.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop
from drivers.support.worker import Watch, Worker

_FAMILIES = ("10-", "22-", "28-", "3b-", "42-")
#: What a sensor says that was just powered up, or is not wired right.
_NO_READING = (85000, 127937)
_PATIENCE = 3
_ERROR = "no valid answer"


class OnewireConfig(DriverConfig, frozen=True):
    sensors: Annotated[tuple[str, ...], Meta(title="Sensors", description="Empty: all")] = ()
    interval: Annotated[float, Meta(title="Seconds between readings", ge=0.05, le=86400)] = 10.0
    change: Annotated[float, Meta(title="Least change that is told", description="°C", ge=0)] = 0.1
    every: Annotated[float, Meta(title="Tell every value", description="Seconds; 0: never", ge=0)] = 0.0


class Onewire(Driver[OnewireConfig]):
    type = "onewire"
    title = "1-Wire thermometers"
    Config = OnewireConfig
    root: ClassVar[Path] = Path("/")

    def __init__(self, config: OnewireConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.Lock()
        self._open = False
        self._watching = Watch()

    @classmethod
    def unavailable(cls) -> str:
        if (cls.root / "sys/bus/w1").is_dir():
            return ""
        return (
            "this machine has no 1-Wire bus; on a Raspberry Pi add dtoverlay=w1-gpio to /boot/firmware/config.txt "
            "and start it again"
        )

    def open(self) -> None:
        with self._lock:
            if reason := self.unavailable():
                raise DriverError(reason)
            there = _present(self.root)
            if missing := [each for each in self.config.sensors if each not in there]:
                raise DriverError(
                    f"there is no sensor {', '.join(missing)} on the bus; there are: {', '.join(there) or 'none'}"
                )
            self._open = True

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            self._open = False

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            if not self._open:
                raise DriverError("the 1-Wire driver is not open")
            return self._watching.begin("onewire", emit, self._watch)

    def entities(self) -> list[Entity]:
        sensors = self.config.sensors or _present(self.root)
        return [Entity(sensor, f"Thermometer {sensor}", "number", "°C") for sensor in sensors]

    def _watch(self, worker: Worker) -> None:
        bus = Bus(self.config, self.host, self.root, self._watching.tell)
        while True:
            for sensor in bus.sensors():
                if worker.stopping:
                    return
                bus.look(sensor)
            if not worker.pause(self.config.interval):
                return


class _Seen(Struct):
    told: float | None = None
    told_at: float = 0.0
    failures: int = 0
    lost: float | None = None


class Bus:
    """The sensors and what was last told of each. For one thread."""

    def __init__(self, config: OnewireConfig, host: Host, root: Path, tell: Emit) -> None:
        self._config = config
        self._host = host
        self._root = root
        self._tell = tell
        self._seen: dict[str, _Seen] = {}

    def sensors(self) -> list[str]:
        """Those that are meant: also such as were there before, so that their loss is told."""
        return list(self._config.sensors) or sorted({*_present(self._root), *self._seen})

    def look(self, sensor: str) -> None:
        seen = self._seen.setdefault(sensor, _Seen())
        now = self._host.monotonic()
        degrees = _read(self._root / "sys/bus/w1/devices" / sensor)
        if degrees is None:
            seen.failures += 1
            if seen.failures == _PATIENCE:
                seen.lost = now
                self._say(sensor, "lost", _ERROR)
            return
        seen.failures = 0
        if seen.lost is not None:
            self._say(sensor, "gap", round(now - seen.lost, 3))
            seen.lost = None
        if seen.told is None or abs(degrees - seen.told) >= max(self._config.change, 0.0001):
            self._say(sensor, "initial" if seen.told is None else "changed", degrees)
        elif self._config.every and now - seen.told_at >= self._config.every:
            self._say(sensor, "reading", degrees)
        else:
            return
        seen.told, seen.told_at = degrees, now

    def _say(self, sensor: str, kind: str, value: Any) -> None:
        attrs = {} if kind in ("lost", "gap") else {"unit": "°C"}
        self._tell(Observation(sensor, kind, value, self._host.now(), attrs, -1 if kind == "reading" else 0))


def _present(root: Path) -> list[str]:
    found = (root / "sys/bus/w1/devices").glob("*-*")
    return sorted(path.name for path in found if path.name.startswith(_FAMILIES))


def _read(sensor: Path) -> float | None:
    """°C from w1_slave: a line with the checksum's verdict, one with the temperature (kernel: w1/slaves/w1_therm)."""
    try:
        verdict, line = (sensor / "w1_slave").read_text(errors="replace").splitlines()[:2]
        thousandths = int(line.rpartition("t=")[2])
    except (OSError, ValueError):
        return None
    if not verdict.endswith("YES") or thousandths in _NO_READING or not -60_000 < thousandths < 130_000:
        return None
    return thousandths / 1000
