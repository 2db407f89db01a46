"""A serial port: what comes in as events, what goes out as commands.

`port` is the identity of a USB adapter (`0403:6001:A5069RR4`: vendor, product, serial number; see it with `lsusb -v`
or in the message for one that is not there), which stays the same in every socket, or a path (`/dev/ttyAMA0`,
`/dev/serial/by-id/…`).

`framing` says where a message ends: `line`, `delimiter`, `length` (its length stands before it) or `raw` (after
`quiet` seconds of silence). `format` says what it is: `text`, `json`, `csv`, `hex` or `modbus` (Modbus RTU: checksum
checked; needs `raw`). Each message is the event `received`. What is no message is told as `garbage` with its first
bytes in hex, and past `max_rate` messages a second only counted (`overflow`). A port that is unplugged is told as
`lost`; once it is plugged in again, at whatever name, `gap` says how many seconds are missing.

Commands are in the port's format and framing; `expect` waits for an answer (`true`: any; text: a regular expression)
and gives it back as `reply`. `hex` sends bytes as they are:

    {"value": "M105", "expect": "^ok", "timeout": 2}
    {"hex": "01 03 00 00 00 0a c5 cd"}
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Struct

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop, decode_command
from drivers.support import codecs, frames, serialport, usb
from drivers.support.rate import Bound
from drivers.support.worker import Watch, Worker

#: Seconds between looks for a port that was unplugged.
_REPLUG_PAUSE = 0.5
_SHOWN = 64


class SerialConfig(DriverConfig, frozen=True):
    port: Annotated[str, Meta(title="Port", description="vendor:product:serial, or a path", min_length=1)]
    baud: Annotated[int, Meta(title="Baud", ge=50, le=4_000_000)] = 115_200
    bits: Annotated[Literal[5, 6, 7, 8], Meta(title="Data bits")] = 8
    parity: Annotated[Literal["none", "even", "odd"], Meta(title="Parity")] = "none"
    stop_bits: Annotated[Literal[1, 2], Meta(title="Stop bits")] = 1
    flow: Annotated[Literal["none", "rts-cts", "xon-xoff"], Meta(title="Flow control")] = "none"
    dtr: Annotated[bool, Meta(title="Set DTR when opening", description="It resets many Arduinos")] = True
    framing: Annotated[Literal["line", "delimiter", "length", "raw"], Meta(title="A message ends by")] = "line"
    delimiter: Annotated[str, Meta(title="Delimiter", description=r"May hold \n, \x03 …", min_length=1)] = "\\n"
    length_bytes: Annotated[Literal[1, 2, 4], Meta(title="Length: its bytes")] = 2
    length_order: Annotated[Literal["big", "little"], Meta(title="Length: order of its bytes")] = "big"
    quiet: Annotated[float, Meta(title="Silence that ends a message", description="Seconds", ge=0.001, le=10)] = 0.02
    format: Annotated[Literal["text", "json", "csv", "hex", "modbus"], Meta(title="Format")] = "text"
    encoding: Annotated[str, Meta(title="Encoding of text")] = "utf-8"
    columns: Annotated[tuple[str, ...], Meta(title="CSV: names of the columns")] = ()
    separator: Annotated[str, Meta(title="CSV: columns are parted by", min_length=1, max_length=1)] = ","
    longest: Annotated[int, Meta(title="Longest message", description="Bytes", ge=1, le=1_048_576)] = 4096
    max_rate: Annotated[int, Meta(title="Most messages a second", ge=1, le=5000)] = 200


class _Command(Struct, forbid_unknown_fields=True):
    value: Any = UNSET
    hex: str = ""
    expect: bool | str = False
    timeout: Annotated[float, Meta(gt=0, le=300)] = 5.0


class _Answer:
    """The message that a writer waits for."""

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self._pattern = pattern
        self.came = threading.Event()
        self.value: Any = None
        self.lost = False

    def offer(self, value: Any) -> None:
        if not self.came.is_set() and (self._pattern is None or self._pattern.search(_words(value))):
            self.value = value
            self.came.set()

    def give_up(self) -> None:
        self.lost = True
        self.came.set()


class Serial(Driver[SerialConfig]):
    type = "serial"
    title = "Serial port"
    Config = SerialConfig
    root: ClassVar[Path] = Path("/")

    def __init__(self, config: SerialConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._port: serialport.Port | None = None
        self._reader: Worker | None = None
        self._answer: _Answer | None = None
        self._watching = Watch()

    @classmethod
    def unavailable(cls) -> str:
        return serialport.missing()

    @classmethod
    def resources(cls, config: SerialConfig) -> tuple[str, ...]:
        return (f"serial:{config.port}",)

    def claims(self) -> tuple[str, ...]:
        try:
            return (f"serial:{Path(self._path()).resolve()}",)
        except DriverError:
            return self.resources(self.config)

    def open(self) -> None:
        with self._lock:
            if self._reader is None:
                framer, codec = _framer(self.config), _codec(self.config)
                self._port = self._connect()
                self._reader = Worker(f"serial {self.config.port}", lambda worker: self._read(worker, framer, codec))
                self._reader.start()

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            self._disconnect()

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            if self._reader is None:
                raise DriverError(f"{self.config.port} is not open")
            return self._watching.begin(f"serial {self.config.port}", emit)

    def write(self, command: Mapping[str, Any]) -> Any:
        wanted = decode_command(_Command, command, self.config.port)
        data = self._encode(wanted)
        if wanted.expect is False:
            with self._writing:
                self._send(data, wanted.timeout)
            return {"sent": len(data)}
        answer = _Answer(_pattern(wanted.expect) if isinstance(wanted.expect, str) else None)
        with self._writing:
            self._answer = answer
            try:
                self._send(data, wanted.timeout)
                if not answer.came.wait(wanted.timeout):
                    raise DriverError(f"{self.config.port} gave no answer within {wanted.timeout:g} s")
            finally:
                self._answer = None
        if answer.lost:
            raise DriverError(f"{self.config.port} was unplugged before it answered")
        return {"sent": len(data), "reply": answer.value}

    def entities(self) -> list[Entity]:
        schema = msgspec.json.schema(_Command)["$defs"]["_Command"]
        return [Entity(self.config.port, f"Serial port {self.config.port}", "text", writable=True, commands=schema)]

    # --- the port ---

    def _path(self) -> str:
        if usb.is_identity(self.config.port):
            return usb.locate(self.root, self.config.port)
        return self.config.port

    def _connect(self) -> serialport.Port:
        """The opened port. Raises ``DriverError``."""
        config = self.config
        return serialport.connect(
            self._path(),
            dtr=config.dtr,
            baudrate=config.baud,
            bytesize=config.bits,
            parity=config.parity[0].upper(),
            stopbits=config.stop_bits,
            rtscts=config.flow == "rts-cts",
            xonxoff=config.flow == "xon-xoff",
        )

    def _disconnect(self) -> None:
        with self._lock:
            port, self._port = self._port, None
        if port is not None:
            port.close()

    # --- reading ---

    def _read(self, worker: Worker, framer: frames.Framer, codec: codecs.Codec) -> None:
        bound = Bound(self.config.max_rate, self.host.monotonic)
        while not worker.stopping:
            try:
                self._follow(worker, framer, codec, bound)
            except OSError as exc:
                self._replug(worker, exc.strerror or str(exc))
                framer = _framer(self.config)

    def _follow(self, worker: Worker, framer: frames.Framer, codec: codecs.Codec, bound: Bound) -> None:
        """Read until the work ends. Raises ``OSError`` when the port was unplugged."""
        port = self._port
        assert port is not None
        waits_for_silence = self.config.framing in ("raw", "length")
        unfinished = False
        while not worker.stopping:
            patience = self.config.quiet if unfinished else 1.0 if bound.pending else None
            if worker.wait((port.fileno(),), patience):
                unfinished = waits_for_silence
                self._take(framer.feed(port.read()), codec, bound)
            elif unfinished:
                unfinished = False
                self._take(framer.quiet(), codec, bound)
            if bound.due:
                self._tell("overflow", bound.report())

    def _take(self, found: Iterable[bytes | frames.Garbage], codec: codecs.Codec, bound: Bound) -> None:
        for frame in found:
            if isinstance(frame, frames.Garbage):
                self._garbage(frame, bound)
                continue
            try:
                value = codec.decode(frame)
            except ValueError as exc:
                self._garbage(frames.Garbage(frame[:_SHOWN], len(frame), str(exc)), bound)
                continue
            if (answer := self._answer) is not None:
                answer.offer(value)
            if bound.take():
                self._tell("received", value)

    def _garbage(self, garbage: frames.Garbage, bound: Bound) -> None:
        if bound.take():
            self._tell("garbage", garbage.start.hex(), bytes=garbage.size, reason=garbage.reason)

    def _replug(self, worker: Worker, reason: str) -> None:
        """Wait until the port is back; a gap was seen."""
        began = self.host.monotonic()
        self._disconnect()
        if (answer := self._answer) is not None:
            answer.give_up()
        self._tell("lost", reason)
        while worker.pause(_REPLUG_PAUSE):
            try:
                port = self._connect()
            except DriverError:
                continue
            with self._lock:
                self._port = port
            self._tell("gap", round(self.host.monotonic() - began, 3))
            return

    def _tell(self, kind: str, value: Any, **attrs: Any) -> None:
        self._watching.tell(Observation(self.config.port, kind, value, self.host.now(), attrs))

    # --- writing ---

    def _encode(self, wanted: _Command) -> bytes:
        if (wanted.value is UNSET) == (not wanted.hex):
            raise DriverError('a command has either "value" or "hex"', retryable=False)
        if wanted.hex:
            return codecs.from_hex(wanted.hex)
        return _framer(self.config).encode(_codec(self.config).encode(wanted.value))

    def _send(self, data: bytes, timeout: float) -> None:
        """Returns when the last byte is on the wire. Raises ``DriverError``."""
        with self._lock:
            port = self._port
            if port is None:
                raise DriverError(f"{self.config.port} is {'not open' if self._reader is None else 'unplugged'}")
        deadline = self.host.monotonic() + timeout
        pause = threading.Event()
        rest = memoryview(data)
        try:
            while rest or port.unsent():
                if self.host.monotonic() > deadline:
                    port.forget()
                    raise DriverError(f"{self.config.port} did not take the bytes within {timeout:g} s (flow control?)")
                rest = rest[port.write(rest) :]
                if rest or port.unsent():
                    pause.wait(min(0.01, 10 * len(data) / self.config.baud))
        except OSError as exc:
            raise DriverError(f"{self.config.port} was unplugged: {exc.strerror or exc}") from exc


def _framer(config: SerialConfig) -> frames.Framer:
    if config.framing == "line":
        return frames.Delimited(b"\n", config.longest, line=True)
    if config.framing == "delimiter":
        try:
            delimiter = config.delimiter.encode().decode("unicode_escape").encode("latin-1")
        except UnicodeError:
            raise DriverError(r"delimiter: write characters, \n, \r, \t or \x03", retryable=False) from None
        return frames.Delimited(delimiter, config.longest)
    if config.framing == "length":
        return frames.Prefixed(config.length_bytes, config.length_order, config.longest)
    return frames.Silent(config.longest)


def _codec(config: SerialConfig) -> codecs.Codec:
    try:
        "".encode(config.encoding)
    except LookupError:
        raise DriverError(f"encoding: {config.encoding!r} is unknown", retryable=False) from None
    if config.format == "csv":
        return codecs.Csv(config.encoding, config.columns, config.separator)
    plain: dict[str, codecs.Codec] = {
        "text": codecs.Text(config.encoding),
        "json": codecs.Json(),
        "hex": codecs.Hex(),
        "modbus": codecs.Modbus(),
    }
    return plain[config.format]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise DriverError(f"expect: is no regular expression: {exc}", retryable=False) from None


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
