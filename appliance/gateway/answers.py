"""Writing answers: JSON of any value that a flow can hold, and entity tags."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec

#: A node may return what is nested deeper than any request may be.
DEEPEST = 200
_encoder = msgspec.json.Encoder(enc_hook=str, decimal_format="string")


def encode(value: Any) -> bytes:
    """The JSON of an answer. Values of flows in it must have gone through :func:`plain`."""
    return _encoder.encode(value)


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """A value of a flow as JSON can tell it: bytes become ``{"$base64": …}``, what is unknown becomes text."""
    if value is None or isinstance(value, str | bool | int | float) or value is msgspec.UNSET:
        return value
    if not depth:
        return "… (nested too deeply to be shown)"
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth - 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$base64": base64.b64encode(value).decode()}
    return str(value)


def weak_tag(data: bytes) -> str:
    """A weak entity tag of an answer (RFC 9110, 8.8.3)."""
    return f'W/"{hashlib.blake2b(data, digest_size=9).hexdigest()}"'


def matches(header: str, tag: str) -> bool:
    """Whether an ``If-None-Match`` names the tag, by weak comparison (RFC 9110, 13.1.2)."""
    wanted = tag.removeprefix("W/")
    return header.strip() == "*" or any(part.strip().removeprefix("W/") == wanted for part in header.split(","))
