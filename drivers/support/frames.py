"""Cuts the bytes of a serial line into frames and puts frames into bytes; bounded whatever comes.

Each framer takes bytes by ``feed`` and yields frames (``bytes``) and :class:`Garbage`; ``encode`` is the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from drivers.base import DriverError


class Garbage(Struct, frozen=True):
    """Bytes of which no frame can be made: the first of them, how many there were, and why."""

    start: bytes
    size: int
    reason: str


class Framer(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes | Garbage]: ...

    def quiet(self) -> Iterator[bytes | Garbage]:
        """The line has been silent for the config's time."""

    def encode(self, frame: bytes) -> bytes:
        """Raises ``DriverError`` for a frame that the other side could not tell apart."""


class Delimited:
    """Frames that end with the same bytes. Empty ones are not told."""

    def __init__(self, delimiter: bytes, longest: int, *, line: bool = False) -> None:
        self._delimiter = delimiter
        self._longest = longest
        self._line = line  # a carriage return before the end is not part of the frame
        self._rest = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | Garbage]:
        searched = max(0, len(self._rest) - len(self._delimiter) + 1)
        self._rest += data
        while (end := self._rest.find(self._delimiter, searched)) >= 0:
            frame = bytes(self._rest[:end])
            del self._rest[: end + len(self._delimiter)]
            searched = 0
            if self._skipping:
                self._skipping = False
                continue
            frame = frame.removesuffix(b"\r") if self._line else frame
            if len(frame) > self._longest:
                yield Garbage(frame[:64], len(frame), f"longer than {self._longest} bytes")
            elif frame:
                yield frame
        if len(self._rest) > self._longest + len(self._delimiter):
            # What is left of it is skipped up to the next delimiter; its end may be the half of one.
            yield Garbage(bytes(self._rest[:64]), len(self._rest), f"no end within {self._longest} bytes")
            self._skipping = True
            del self._rest[: len(self._rest) - len(self._delimiter) + 1]

    def quiet(self) -> Iterator[bytes | Garbage]:
        return iter(())

    def encode(self, frame: bytes) -> bytes:
        if self._delimiter in frame:
            raise DriverError("the text holds the delimiter: it would arrive as two frames", retryable=False)
        return frame + self._delimiter


class Prefixed:
    """Frames with their length before them. After a silence a new frame begins, whatever was announced."""

    def __init__(self, width: int, order: str, longest: int) -> None:
        self._width = width
        self._order: str = order
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Garbage]:
        self._rest += data
        while len(self._rest) >= self._width:
            size = int.from_bytes(self._rest[: self._width], "little" if self._order == "little" else "big")
            if size > self._longest:
                yield Garbage(bytes(self._rest[:64]), len(self._rest), f"announces {size} bytes")
                self._rest.clear()
                return
            if len(self._rest) < self._width + size:
                return
            frame = bytes(self._rest[self._width : self._width + size])
            del self._rest[: self._width + size]
            if frame:
                yield frame

    def quiet(self) -> Iterator[bytes | Garbage]:
        if self._rest:
            yield Garbage(bytes(self._rest[:64]), len(self._rest), "the frame broke off")
            self._rest.clear()

    def encode(self, frame: bytes) -> bytes:
        if len(frame) >= 1 << (8 * self._width):
            raise DriverError(f"{len(frame)} bytes do not fit a length of {self._width} bytes", retryable=False)
        return len(frame).to_bytes(self._width, "little" if self._order == "little" else "big") + frame


class Silent:
    """Frames with silence between them (Modbus RTU), or whatever came together."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Garbage]:
        self._rest += data
        while len(self._rest) > self._longest:
            yield Garbage(bytes(self._rest[:64]), self._longest, f"no silence within {self._longest} bytes")
            del self._rest[: self._longest]

    def quiet(self) -> Iterator[bytes | Garbage]:
        if self._rest:
            frame = bytes(self._rest)
            self._rest.clear()
            yield frame

    def encode(self, frame: bytes) -> bytes:
        return frame
