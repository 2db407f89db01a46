"""What a frame of a serial line means: text, JSON, CSV, bytes as hex, or a frame with Modbus RTU's checksum."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, Protocol

from drivers.base import DriverError


class Codec(Protocol):
    def decode(self, frame: bytes) -> Any:
        """The JSON value. Raises ``ValueError`` saying what is wrong."""

    def encode(self, value: Any) -> bytes:
        """Raises ``DriverError`` for a value that cannot be sent like this."""


class Text:
    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def decode(self, frame: bytes) -> str:
        try:
            return frame.decode(self._encoding)
        except UnicodeError:
            raise ValueError(f"not {self._encoding} text") from None

    def encode(self, value: Any) -> bytes:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DriverError("value: must be text", retryable=False)
        try:
            return str(value).encode(self._encoding)
        except UnicodeError:
            raise DriverError(f"value: cannot be written as {self._encoding}", retryable=False) from None


class Json:
    def decode(self, frame: bytes) -> Any:
        try:
            return json.loads(frame, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ValueError("not JSON") from None

    def encode(self, value: Any) -> bytes:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise DriverError("value: cannot be written as JSON", retryable=False) from None


class Csv:
    """One row; with names of columns an object, else a list. Numbers become numbers."""

    def __init__(self, encoding: str, columns: Sequence[str], separator: str) -> None:
        self._text = Text(encoding)
        self._columns = columns
        self._separator = separator

    def decode(self, frame: bytes) -> Any:
        import csv

        try:
            cells = next(csv.reader([self._text.decode(frame)], delimiter=self._separator, strict=True))
        except (csv.Error, StopIteration):
            raise ValueError("not a row of CSV") from None
        values = [_number(cell.strip()) for cell in cells]
        if not self._columns:
            return values
        if len(values) != len(self._columns):
            raise ValueError(f"{len(values)} columns instead of {len(self._columns)}")
        return dict(zip(self._columns, values, strict=True))

    def encode(self, value: Any) -> bytes:
        if isinstance(value, dict) and self._columns and not value.keys() - set(self._columns):
            value = [value.get(name, "") for name in self._columns]
        if not isinstance(value, list):
            raise DriverError("value: must be a list, or an object with the columns' names", retryable=False)
        import csv

        row = io.StringIO()
        csv.writer(row, delimiter=self._separator, lineterminator="").writerow(value)
        return self._text.encode(row.getvalue())


class Hex:
    def decode(self, frame: bytes) -> str:
        return frame.hex()

    def encode(self, value: Any) -> bytes:
        return from_hex(value)


class Modbus:
    """``{"address": 1, "function": 3, "data": "0000000a"}``; the checksum is checked and made here."""

    def decode(self, frame: bytes) -> dict[str, Any]:
        if len(frame) < 4:
            raise ValueError("shorter than a Modbus frame")
        if crc16(frame[:-2]) != int.from_bytes(frame[-2:], "little"):
            raise ValueError("wrong checksum")
        return {"address": frame[0], "function": frame[1], "data": frame[2:-2].hex()}

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, dict) or value.keys() - {"address", "function", "data"}:
            raise DriverError("value: must be an object with address, function and data", retryable=False)
        frame = bytes([_byte(value, "address"), _byte(value, "function")]) + from_hex(value.get("data", ""))
        return frame + crc16(frame).to_bytes(2, "little")


def crc16(data: bytes) -> int:
    """Modbus RTU's checksum (Modbus over Serial Line 1.02, 6.2.2): polynomial 0xA001, starts with 0xFFFF."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def _byte(value: dict[str, Any], name: str) -> int:
    number = value.get(name)
    if type(number) is not int or not 0 <= number <= 255:
        raise DriverError(f"{name}: must be a number from 0 to 255", retryable=False)
    return number


def from_hex(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise DriverError("must be hex digits, such as 01 03 0a ff", retryable=False) from None


def _number(cell: str) -> Any:
    for kind in (int, float):
        try:
            number = kind(cell)
        except ValueError:
            continue
        # "nan" and "inf" are words to us, and 007 is a name rather than a number.
        plain = cell.lstrip("+-")
        if plain[:1].isdigit() and not (plain[:1] == "0" and plain[1:2].isdigit()) and "_" not in cell:
            return number
    return cell


def _no_constant(word: str) -> None:
    raise ValueError(word)
