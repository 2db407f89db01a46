"""Pictures and sounds for models: from a blob, or from a file in the folders that flows may read."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.contracts import ConfigError, Context, Inference, NodeError

#: Bytes of one picture or sound; the model host takes no more in one request.
LARGEST = 32_000_000

#: What a value is called that is neither a blob nor a path.
_KINDS: dict[type, str] = {
    type(None): "nothing",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "an empty text",
    list: "a list",
    dict: "an object",
}


def held(ctx: Context, value: Any, what: str) -> bytes | None:
    """The bytes of a blob's reference, or of ``{"base64": …}`` as a webhook gives them; None for any other value."""
    if not isinstance(value, Mapping):
        return None
    if "$blob" in value:
        return bounded(ctx.blobs.get(value), what)
    if not isinstance(value.get("base64"), str):
        return None
    try:
        return bounded(base64.b64decode(value["base64"], validate=True), what)
    except ValueError:
        raise ConfigError(f"{what}: what is under `base64` is not base64") from None


def load(ctx: Context, expression: str, what: str) -> bytes:
    """The bytes that an expression's value stands for: what :func:`held` takes, or the path of a file.

    Raises ``ConfigError`` for any other value, ``NodeError`` for what is gone or too large.
    """
    value = ctx.eval(expression)
    if (data := held(ctx, value, what)) is not None:
        return data
    if isinstance(value, str) and value:
        try:
            return bounded(_read(ctx.files.resolve(value), value), what)
        except OSError as exc:
            raise NodeError(f"{what}: {value!r} cannot be read: {exc.strerror}", retryable=False) from None
    told = _KINDS.get(type(value), "something else")
    raise ConfigError(f"{what}: {expression} is neither a reference to a blob nor a path, but {told}")


async def infer(
    ctx: Context, model: str, task: str, inputs: Mapping[str, Any], options: Mapping[str, Any], timeout: float
) -> Inference:
    """One run of a model for this task. Raises ``ConfigError`` that says what a model is for that is for another."""
    try:
        return await ctx.models.infer(model, inputs, options, timeout)
    except ConfigError as exc:
        facts = await ctx.models.facts(model)
        if facts.task in ("", task):
            raise
        # A folder without a `model.json` is listed as `onnx`.
        told = "names no task in a model.json" if facts.task == "onnx" else f"is for the task {facts.task}"
        raise ConfigError(f"model: {model!r} {told}; this wants one for {task}", detail=exc.detail) from exc


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
