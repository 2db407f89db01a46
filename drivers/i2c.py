"""A chip on an I2C bus: registers read on an interval or by command, and written by command.

`bus` is the number N of `/dev/i2c-N` (1 on a Raspberry Pi's header), `address` that of the chip (`i2cdetect -y 1` shows
them; 0x48 is 72). With an `interval` the `register` is read again and again and told as `changed` when it differs by
`change` or more; `format`, `scale` and `offset` make a number of its bytes. A chip that no longer answers is `lost`.
`safe` are the writes that put it into its safe state.

Commands read or write, from a register on or without one:

    {"register": 0, "read": 2}
    {"register": 1, "write": "60 a0"}
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, json

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop, decode_command
from drivers.support import i2cbus
from drivers.support.codecs import from_hex
from drivers.support.worker import Watch, Worker

_Byte = Annotated[int, Meta(ge=0, le=255)]
Format = Literal["u8", "s8", "u16", "s16", "u16-little", "s16-little", "u24", "s24", "u32", "s32", "bytes"]


class SafeWrite(Struct, frozen=True, forbid_unknown_fields=True):
    register: Annotated[_Byte | None, Meta(title="Register", description="null: none")]
    write: Annotated[str, Meta(title="Bytes in hex")]


class I2cConfig(DriverConfig, frozen=True):
    address: Annotated[int, Meta(title="Address", description="3 to 119", ge=3, le=0x77)]
    bus: Annotated[int, Meta(title="Bus", ge=0, le=255)] = 1
    interval: Annotated[float, Meta(title="Seconds between readings", description="0: none", ge=0, le=86400)] = 0.0
    register: Annotated[_Byte | None, Meta(title="Register", description="Empty: none")] = None
    format: Annotated[Format, Meta(title="Format", description="Most significant byte first, or little")] = "u8"
    length: Annotated[int, Meta(title="Format bytes: how many", ge=1, le=i2cbus.MOST)] = 1
    scale: Annotated[float, Meta(title="Scale", description="The number times this …")] = 1.0
    offset: Annotated[float, Meta(title="Offset", description="… and this added")] = 0.0
    unit: Annotated[str, Meta(title="Unit")] = ""
    change: Annotated[float, Meta(title="Least change that is told", ge=0)] = 0.0
    safe: Annotated[tuple[SafeWrite, ...], Meta(title="Writes of the safe state")] = ()


class _Command(Struct, forbid_unknown_fields=True):
    register: _Byte | None = None
    read: Annotated[int, Meta(ge=1, le=i2cbus.MOST)] | None = None
    write: str | None = None


class I2c(Driver[I2cConfig]):
    type = "i2c"
    title = "I2C chip"
    Config = I2cConfig

    def __init__(self, config: I2cConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.RLock()
        self._chip: i2cbus.Chip | None = None
        self._watching = Watch()
        self._source = f"i2c-{config.bus}/0x{config.address:02x}"

    @classmethod
    def unavailable(cls) -> str:
        return i2cbus.missing()

    @classmethod
    def resources(cls, config: I2cConfig) -> tuple[str, ...]:
        return (f"i2c:{config.bus}/0x{config.address:02x}",)

    def open(self) -> None:
        with self._lock:
            if self._chip is not None:
                return
            for each in self.config.safe:
                _data(each.write)
            chip = self.chip()
            chip.open()
            try:
                if self.config.interval:
                    chip.read(self.config.register, _length(self.config))
            except DriverError:
                chip.close()
                raise
            self._chip = chip

    def chip(self) -> i2cbus.Chip:
        return i2cbus.Chip(self.config.bus, self.config.address)

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            chip, self._chip = self._chip, None
            if chip is not None:
                chip.close()

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            self._opened()
            if not self.config.interval:
                raise DriverError(f"{self._source} has no events without an interval", retryable=False)
            return self._watching.begin(f"i2c {self._source}", emit, self._watch)

    def write(self, command: Mapping[str, Any]) -> Any:
        wanted = decode_command(_Command, command, self._source)
        if (wanted.read is None) == (wanted.write is None):
            raise DriverError('a command has either "read" or "write"', retryable=False)
        with self._lock:
            chip = self._opened()
            if wanted.write is not None:
                data = _data(wanted.write)
                chip.write(wanted.register, data)
                return {"written": len(data)}
            return {"bytes": chip.read(wanted.register, wanted.read or 1).hex()}

    def safe_state(self) -> None:
        with self._lock:
            for each in self.config.safe if self._chip is not None else ():
                try:
                    self._opened().write(each.register, _data(each.write))
                except DriverError:
                    pass  # the others are tried all the same

    def entities(self) -> list[Entity]:
        kind = "text" if self.config.format == "bytes" else "number"
        schema = json.schema(_Command)["$defs"]["_Command"]
        return [Entity(self._source, f"I2C chip {self._source}", kind, self.config.unit, True, schema)]

    def _opened(self) -> i2cbus.Chip:
        if self._chip is None:
            raise DriverError(f"{self._source} is not open")
        return self._chip

    def _watch(self, worker: Worker) -> None:
        told: Any = None
        lost: float | None = None
        pace = max(0.001, self.config.interval)
        while True:
            try:
                with self._lock:
                    raw = self._opened().read(self.config.register, _length(self.config))
            except DriverError as exc:
                if lost is None and not worker.stopping:
                    lost = self.host.monotonic()
                    self._tell("lost", exc.message)
            else:
                if lost is not None:
                    self._tell("gap", round(self.host.monotonic() - lost, 3))
                    lost = None
                value = value_of(raw, self.config)
                if differs(told, value, self.config.change):
                    self._tell("initial" if told is None else "changed", value, bytes=raw.hex())
                    told = value
            if not worker.pause(pace):
                return

    def _tell(self, kind: str, value: Any, **attrs: Any) -> None:
        if self.config.unit:
            attrs["unit"] = self.config.unit
        self._watching.tell(Observation(self._source, kind, value, self.host.now(), attrs))


def value_of(raw: bytes, config: I2cConfig) -> Any:
    """The number that the bytes mean, or the bytes in hex."""
    if config.format == "bytes":
        return raw.hex()
    order: Literal["little", "big"] = "little" if config.format.endswith("little") else "big"
    number = int.from_bytes(raw, order, signed=config.format.startswith("s"))
    return round(number * config.scale + config.offset, 9)


def differs(before: Any, now: Any, change: float) -> bool:
    if isinstance(before, int | float) and isinstance(now, int | float):
        return now != before and abs(now - before) >= change
    return bool(now != before)


def _length(config: I2cConfig) -> int:
    return config.length if config.format == "bytes" else int(config.format.split("-")[0][1:]) // 8


def _data(text: str) -> bytes:
    data = from_hex(text)
    if not 1 <= len(data) <= i2cbus.MOST:
        raise DriverError(f"write: must be 1 to {i2cbus.MOST} bytes", retryable=False)
    return data
