"""Pictures and sounds for models: from a blob, or from a file in the folders that flows may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.contracts import ConfigError, Context, NodeError

#: Bytes of one picture or sound; the model host takes no more in one request.
LARGEST = 32_000_000


def is_blob(value: Any) -> bool:
    """Whether a value is a reference to a blob."""
    return isinstance(value, Mapping) and "$blob" in value


def load(ctx: Context, expression: str, what: str) -> bytes:
    """The bytes that an expression's value stands for: a blob's reference, or the path of a file.

    Raises ``ConfigError`` for any other value, ``NodeError`` for what is gone or too large.
    """
    value = ctx.eval(expression)
    if is_blob(value):
        return bounded(ctx.blobs.get(value), what)
    if isinstance(value, str) and value:
        try:
            return bounded(_read(ctx.files.resolve(value), value), what)
        except OSError as exc:
            raise NodeError(f"{what}: {value!r} cannot be read: {exc.strerror}", retryable=False) from None
    raise ConfigError(f"{what}: {expression} is neither a reference to a blob nor a path, but {_told(value)}")


def bounded(data: bytes, what: str) -> bytes:
    """The data, if a model can take that much."""
    if len(data) > LARGEST:
        raise NodeError(f"{what}: more than {LARGEST} bytes", retryable=False)
    return data


def _read(path: Path, name: str) -> bytes:
    # Not blocking: opening a named pipe would otherwise wait for ever for somebody to write.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NodeError(f"{name!r} is not a file that can be read", retryable=False)
    with os.fdopen(handle, "rb") as file:
        return file.read(LARGEST + 1)


def _told(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
