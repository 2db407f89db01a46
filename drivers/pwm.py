"""A PWM output of the kernel: the speed of a fan, the brightness of a lamp, the angle of a servo.

`chip` and `channel` are those of `/sys/class/pwm/pwmchipN` (on a Raspberry Pi after `dtoverlay=pwm-2chan` in
`/boot/firmware/config.txt`). `value` is the part of the time for which the output is on, 0 to 1. It is `initial` when
the output is opened and `safe` when the agent ends or has lost its appliance. Commands:

    {"value": 0.4}
    {"read": true}
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, json

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop, decode_command
from drivers.support.worker import Watch

_Duty = Annotated[float, Meta(ge=0, le=1)]
#: Seconds in which udev gives a fresh channel to its group.
_PATIENCE = 1.0


class PwmConfig(DriverConfig, frozen=True):
    chip: Annotated[str, Meta(title="Chip", pattern="^pwmchip[0-9]+$")] = "pwmchip0"
    channel: Annotated[int, Meta(title="Channel", ge=0)] = 0
    frequency: Annotated[float, Meta(title="Frequency", description="Hz", gt=0, le=10_000_000)] = 1000.0
    polarity: Annotated[Literal["normal", "inversed"], Meta(title="Polarity")] = "normal"
    initial: Annotated[_Duty, Meta(title="Duty when opened")] = 0.0
    safe: Annotated[_Duty, Meta(title="Safe duty")] = 0.0


class _Command(Struct, forbid_unknown_fields=True):
    value: _Duty | None = None
    read: bool = False


class Pwm(Driver[PwmConfig]):
    type = "pwm"
    title = "PWM output"
    Config = PwmConfig
    root: ClassVar[Path] = Path("/")

    def __init__(self, config: PwmConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.RLock()
        self._open = False
        self._duty = 0.0
        self._watching = Watch()
        self._source = f"{config.chip}/{config.channel}"

    @classmethod
    def unavailable(cls) -> str:
        if any((cls.root / "sys/class/pwm").glob("pwmchip*")):
            return ""
        return (
            "this machine has no PWM output that its kernel knows of; on a Raspberry Pi add dtoverlay=pwm-2chan to "
            "/boot/firmware/config.txt and start it again"
        )

    @classmethod
    def resources(cls, config: PwmConfig) -> tuple[str, ...]:
        return (f"pwm:{config.chip}/{config.channel}",)

    def open(self) -> None:
        with self._lock:
            if self._open:
                return
            if reason := self.unavailable():
                raise DriverError(reason)
            self._export()
            period = round(1e9 / self.config.frequency)
            # A duty longer than the period is refused, and polarity changes only while it stands still.
            self._write("enable", 0, missing_ok=True)
            self._write("duty_cycle", 0, missing_ok=True)
            self._write("period", period)
            if self.config.polarity == "inversed" or self._read("polarity") == "inversed":
                self._write("polarity", self.config.polarity)
            self._set(self.config.initial)
            self._write("enable", 1)
            self._open = True

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            self._open = False

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            self._must_be_open()
            stop = self._watching.begin(f"pwm {self._source}", emit)
            self._tell("initial")
            return stop

    def write(self, command: Mapping[str, Any]) -> Any:
        wanted = decode_command(_Command, command, self._source)
        if (wanted.value is None) != wanted.read:
            raise DriverError('a command is {"value": 0 to 1} or {"read": true}', retryable=False)
        with self._lock:
            self._must_be_open()
            if wanted.value is not None and wanted.value != self._duty:
                self._set(wanted.value)
                self._tell("changed")
            return {"value": self._duty}

    def safe_state(self) -> None:
        with self._lock:
            if self._open and self._duty != self.config.safe:
                try:
                    self._set(self.config.safe)
                    self._tell("changed")
                except DriverError:
                    pass  # the chip is gone, and its output with it

    def entities(self) -> list[Entity]:
        schema = json.schema(_Command)["$defs"]["_Command"]
        return [Entity(self._source, f"PWM {self._source}", "number", "", True, schema)]

    # --- the kernel's files (Documentation/driver-api/pwm.rst) ---

    @property
    def _chip(self) -> Path:
        return self.root / "sys/class/pwm" / self.config.chip

    def _export(self) -> None:
        channel = self._chip / f"pwm{self.config.channel}"
        if not channel.is_dir():
            try:
                (self._chip / "export").write_text(f"{self.config.channel}\n")
            except FileNotFoundError:
                there = ", ".join(sorted(path.name for path in self._chip.parent.glob("pwmchip*")))
                raise DriverError(f"there is no {self.config.chip}; there are: {there}") from None
            except OSError as exc:
                raise self._refusal(exc) from exc
        deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
        while not _writable(channel / "duty_cycle") and time.monotonic() < deadline:
            pause.wait(0.02)

    def _set(self, duty: float) -> None:
        self._write("duty_cycle", round(duty * 1e9 / self.config.frequency))
        self._duty = duty

    def _write(self, name: str, value: object, *, missing_ok: bool = False) -> None:
        """``missing_ok``: a fresh channel has no period yet, and then refuses."""
        try:
            (self._chip / f"pwm{self.config.channel}" / name).write_text(f"{value}\n")
        except OSError as exc:
            if not (missing_ok and exc.errno == errno.EINVAL):
                raise self._refusal(exc) from exc

    def _read(self, name: str) -> str:
        try:
            return (self._chip / f"pwm{self.config.channel}" / name).read_text().strip()
        except OSError:
            return ""

    def _refusal(self, exc: OSError) -> DriverError:
        if exc.errno in (errno.EACCES, errno.EPERM):
            return DriverError(f"{self._source} may not be written: add the account to the group that owns it (gpio)")
        if exc.errno == errno.EBUSY:
            return DriverError(f"{self._source} is in use by the kernel or another program")
        if exc.errno == errno.ENODEV:
            return DriverError(f"{self.config.chip} has no channel {self.config.channel}", retryable=False)
        if exc.errno == errno.EINVAL:
            text = f"{self._source} cannot do {self.config.frequency:g} Hz with this polarity"
            return DriverError(text, retryable=False)
        return DriverError(f"{self._source}: {exc.strerror}")

    def _must_be_open(self) -> None:
        if not self._open:
            raise DriverError(f"{self._source} is not open")

    def _tell(self, kind: str) -> None:
        self._watching.tell(Observation(self._source, kind, self._duty, self.host.now()))


def _writable(file: Path) -> bool:
    try:
        file.open("r+").close()
    except OSError:
        return False
    return True
