"""Frames on the kernel's Unix socket: four bytes of length (big-endian), then msgpack.

A request is ``[id, method, params]``, an answer ``[id, status, result]`` with status 0 (result), 1 (error) or 2 (one
item of a stream). The socket lies in the data folder, readable for its owner only.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

SOCKET = "kernel.sock"
OK, ERROR, ITEM = 0, 1, 2
MAX_FRAME = 64_000_000
#: Seconds that trying one node may take at most.
LONGEST_TRIAL = 60.0
#: Seconds that a draft may take in all, however often the model is asked.
LONGEST_DRAFT = 1800.0

_encoder = msgspec.msgpack.Encoder(enc_hook=str, decimal_format="string")
_decoder = msgspec.msgpack.Decoder()


class WireError(Exception):
    """The other side does not speak this protocol."""


def frame(message: Any) -> bytes:
    """One frame. Raises ``ValueError`` for a message over 64 MB."""
    data = _encoder.encode(message)
    if len(data) > MAX_FRAME:
        raise ValueError(f"a message of {len(data):,} bytes is too large")
    return len(data).to_bytes(4, "big") + data


def frames(buffer: bytearray) -> Iterator[Any]:
    """The whole messages at the front of ``buffer``, which are taken from it. Raises ``WireError``."""
    start, end = 0, len(buffer)
    try:
        while end - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length:,} bytes")
            if end - start - 4 < length:
                return
            body = bytes(buffer[start + 4 : start + 4 + length])
            start += 4 + length
            yield decode(body)
    finally:
        del buffer[:start]


def decode(body: bytes) -> Any:
    """A message without its length. Raises ``WireError``."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as exc:
        # Nested too deeply, or a map with keys that cannot be keys.
        raise WireError(str(exc)) from None


@contextlib.contextmanager
def socket_address(data: Path) -> Iterator[str]:
    """The socket's path, short enough for the kernel's 107 bytes however deep the data folder lies."""
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


def connect(data: Path, timeout: float) -> socket.socket:
    """Connect to the kernel of a data folder. Raises ``OSError`` if there is none."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(timeout)
        with socket_address(data) as address:
            link.connect(address)
    except BaseException:
        link.close()
        raise
    return link


def listen(data: Path) -> socket.socket:
    """Listen for the gateway and the command line. The caller holds the kernel's lock, so an old socket is dead."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            (data / SOCKET).unlink()
        with socket_address(data) as address:
            link.bind(address)
        (data / SOCKET).chmod(0o600)
        link.listen(128)
        link.setblocking(False)
    except BaseException:
        link.close()
        raise
    return link
