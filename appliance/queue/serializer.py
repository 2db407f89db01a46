"""Huey's messages and results as msgpack, never pickle: reading a queue must not be able to run code.

A value comes back as what it was (a tuple as a tuple, a naive datetime as a naive one), or is refused
when it is enqueued, where the mistake is. Only an exception changes: it comes back as Huey's
``TaskException``, for the error handlers of a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

import msgspec
from huey.exceptions import TaskException
from huey.registry import Message
from huey.serializer import Serializer
from huey.utils import SKIPPED, Error
from msgspec.msgpack import Ext

from appliance.queue.errors import Unserializable

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_KEYS = frozenset({str, int, bytes})

_encode = msgspec.msgpack.Encoder().encode


class _Code(IntEnum):
    """Msgpack extension types. They are on disk, so a code keeps its meaning for ever."""

    MESSAGE = 1
    ERROR = 2
    SKIPPED = 3
    TUPLE = 4
    DATETIME = 5
    TIMEDELTA = 6
    EXCEPTION = 7


def _ext(code: _Code, content: Any) -> Ext:
    return Ext(int(code), _encode(content))


def _exception(exc: BaseException) -> Ext:
    known = exc.metadata.get("error") if isinstance(exc, TaskException) else None
    return _ext(_Code.EXCEPTION, {"error": str(known or repr(exc)), "type": type(exc).__name__})


_TO_EXT: dict[type, Callable[[Any], Ext]] = {
    Message: lambda value: _ext(_Code.MESSAGE, [_wire(item) for item in value]),
    Error: lambda value: _ext(_Code.ERROR, _wire(value.metadata)),
    type(SKIPPED): lambda value: _ext(_Code.SKIPPED, None),
    tuple: lambda value: _ext(_Code.TUPLE, [_wire(item) for item in value]),
    datetime: lambda value: _ext(_Code.DATETIME, value.isoformat()),
    timedelta: lambda value: _ext(_Code.TIMEDELTA, [value.days, value.seconds, value.microseconds]),
}
_FROM_EXT: dict[int, Callable[[Any], Any]] = {
    _Code.MESSAGE: lambda content: Message(*content),
    _Code.ERROR: Error,
    _Code.SKIPPED: lambda content: SKIPPED,
    _Code.TUPLE: tuple,
    _Code.DATETIME: datetime.fromisoformat,
    _Code.TIMEDELTA: lambda content: timedelta(*content),
    _Code.EXCEPTION: TaskException,
}


def _wire(value: Any) -> Any:
    """``value`` in types that msgpack brings back unchanged. Raises ``Unserializable`` for any other.

    By exact type: msgspec by itself would turn sets, enums and dataclasses silently into something else.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_wire(item) for item in value]
    if kind is dict:
        for key in value:
            if type(key) not in _KEYS:
                raise _refusal("a dict key", key)
        return {key: _wire(item) for key, item in value.items()}
    to_ext = _TO_EXT.get(kind)
    if to_ext is not None:
        return to_ext(value)
    if isinstance(value, BaseException):
        return _exception(value)
    raise _refusal("a value", value)


def _refusal(what: str, value: Any) -> Unserializable:
    kind = type(value)
    return Unserializable(
        f"the queue cannot carry {what} of type {kind.__module__}.{kind.__qualname__}; pass None, bool, int, "
        "float, str, bytes, list, tuple, dict, datetime or timedelta"
    )


def _unwire(code: int, content: memoryview) -> Any:
    from_ext = _FROM_EXT.get(code)
    if from_ext is None:
        raise ValueError(f"unknown extension type {code}")
    return from_ext(_decode(content))


_decode = msgspec.msgpack.Decoder(ext_hook=_unwire).decode


class MsgpackSerializer(Serializer):
    """For any of Huey's storages. Raises ``Unserializable`` for what it cannot carry or cannot read."""

    def __init__(self) -> None:
        super().__init__(compression=False)

    def _serialize(self, data: Any) -> bytes:
        try:
            return _encode(_wire(data))
        except (OverflowError, RecursionError, UnicodeEncodeError) as exc:
            raise Unserializable(f"the queue cannot carry this value: {exc}") from None

    def _deserialize(self, data: bytes) -> Any:
        try:
            return _decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as exc:
            raise Unserializable(f"this is not a message of this version of the queue: {exc}") from None
