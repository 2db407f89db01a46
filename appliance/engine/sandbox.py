"""The sandbox that templates run in: what may be reached, and how much may be spent.

Jinja's own ``ImmutableSandboxedEnvironment`` forbids reaching Python's inside. What it allows but a small box cannot
afford (endless loops, huge strings and numbers) is stopped by a budget of steps, bytes and time.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import Undefined
from jinja2.runtime import Context as JinjaContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from appliance.contracts import ExpressionError

MAX_ITERATIONS = 100_000
MAX_VALUE = 4_000_000
MAX_BITS = 4_096
MAX_SECONDS = 0.5
_WIDE = re.compile(r"\d{5,}")
_PADDING = {"ljust", "rjust", "center", "zfill", "expandtabs"}


class _Budget(threading.local):
    """What the template running on this thread may still spend."""

    steps = MAX_ITERATIONS
    size = MAX_VALUE
    deadline = math.inf

    def reset(self, source_length: int) -> None:
        self.steps = min(MAX_ITERATIONS, 8 * MAX_VALUE // max(source_length, 1))
        self.size = MAX_VALUE
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise ExpressionError(f"the template loops or calls more than {MAX_ITERATIONS:,} times")
        if not self.steps & 255 and time.monotonic() > self.deadline:
            raise ExpressionError(f"the template needs more than {MAX_SECONDS:g} s")

    def spend(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise ExpressionError(f"the template makes more than {MAX_VALUE:,} bytes")


#: Reset before each evaluation.
budget = _Budget()


class Missing(Undefined):
    """A name that is not there: false in a condition, an error when it is printed or compared."""

    __slots__ = ()

    def __str__(self) -> str:
        self._fail_with_undefined_error()

    @property
    def _undefined_message(self) -> str:
        """Of what flows see, no Python types."""
        if isinstance(self._undefined_obj, Mapping) and self._undefined_hint is None:
            return f"there is no {self._undefined_name!r}"
        return str(super()._undefined_message)


def _bounded(value: Any) -> Any:
    """Refuse a value that grew past the bound (a string or list built by doubling)."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > MAX_VALUE:
        raise ExpressionError(f"a value grows past {MAX_VALUE:,} items or bytes")
    return value


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        budget.step()
        yield value


def _finalize(value: Any) -> Any:
    if isinstance(value, str):
        budget.spend(len(value))
    elif isinstance(value, list | dict | tuple):
        text = json.dumps(value, ensure_ascii=False, default=str)
        budget.spend(len(text))
        return text
    elif value is None:
        return ""
    elif isinstance(value, bool):
        return "true" if value else "false"
    return value


def _check_format(template: str) -> None:
    if _WIDE.search(template):
        raise ExpressionError("a width in the format text is too large")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["**", "*", "%", "+"])

    def call_binop(self, context: JinjaContext, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return _bounded(left + right)
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator in "**":
            _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: JinjaContext, obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget.step()
        # str.format arrives wrapped by the sandbox.
        obj_inside = getattr(obj, "__wrapped__", obj)
        owner = getattr(obj_inside, "__self__", None)
        if isinstance(owner, str | bytes):
            _check_method(owner, getattr(obj, "__name__", ""), args)
        return super().call(context, obj, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # `payload.items` means the key first: people write JSON, not Python.
        if isinstance(obj, dict):
            try:
                return obj[attribute]
            except KeyError:
                if attribute not in _DICT_METHODS:
                    return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


_DICT_METHODS = {"items", "keys", "values", "get"}


def _check_product(operator: str, left: Any, right: Any) -> None:
    if operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
            raise ExpressionError("the power is too large")
        return
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
            if len(one) * other > MAX_VALUE:
                raise ExpressionError("the repetition is too long")
        elif isinstance(one, int) and isinstance(other, int) and one.bit_length() > MAX_BITS:
            raise ExpressionError("the number is too large")


def _check_method(owner: str | bytes, name: str, args: tuple[Any, ...]) -> None:
    if name in _PADDING and any(isinstance(a, int) and a > 10_000 for a in args):
        raise ExpressionError(f"the width of {name}() is too large")
    if name in {"format", "format_map"} and isinstance(owner, str):
        _check_format(owner)
    if name == "replace" and len(args) >= 2:
        _check_replace(owner, args[0], args[1])
    if name == "join" and args and isinstance(args[0], list | tuple):
        total = sum(len(a) for a in args[0] if isinstance(a, str)) + len(owner) * len(args[0])
        if total > MAX_VALUE:
            raise ExpressionError("the joined text is too long")


def _check_replace(text: Any, old: Any, new: Any) -> None:
    if isinstance(text, str | bytes) and len(text) + text.count(old) * len(new) > MAX_VALUE:
        raise ExpressionError("the replaced text is too long")


def _filter_replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    text, new = str(value), str(new)
    _check_replace(text, str(old), new)
    return text.replace(str(old), new, count)


def _filter_join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    parts: list[str] = []
    size = 0
    for value in values:
        part = str(value[attribute] if attribute else _finalize(value))
        size += len(part) + len(separator)
        if size > MAX_VALUE:
            raise ExpressionError("the joined text is too long")
        parts.append(part)
    return separator.join(parts)


def _filter_from_json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as exc:
        raise ExpressionError(f"from_json: {exc}") from None


def _filter_time(value: Any) -> datetime.datetime:
    """A moment from Unix seconds or ISO 8601 text (UTC if it names no zone)."""
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, int | float):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    moment = datetime.datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


_FILTERS: dict[str, Callable[..., Any]] = {
    "_counted": _counted,
    "_bounded": _bounded,
    "replace": _filter_replace,
    "join": _filter_join,
    "to_json": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    "tojson": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    "from_json": _filter_from_json,
    "time": _filter_time,
    "timestamp": lambda value: _filter_time(value).timestamp(),
    "b64encode": lambda value: base64.b64encode(_to_bytes(value)).decode(),
    "b64decode": lambda value: base64.b64decode(_to_bytes(value)).decode("utf-8", "replace"),
    "sha256": lambda value: hashlib.sha256(_to_bytes(value)).hexdigest(),
}
# Padding filters of Jinja that take any width, and helpers that belong to web pages.
_REMOVED = ("center", "indent", "wordwrap", "format", "urlize", "xmlattr", "pprint", "batch", "slice")


@functools.cache
def environment() -> _Environment:
    """The one environment of this process."""
    env = _Environment(undefined=Missing, finalize=_finalize, autoescape=False, keep_trailing_newline=True)
    env.globals.clear()
    env.globals.update(range=env_range, min=min, max=max, abs=abs, round=round, len=len, int=int, float=float)
    env.globals["namespace"] = Namespace
    for name in _REMOVED:
        env.filters.pop(name, None)
    env.filters.update(_FILTERS)
    return env


def env_range(*args: int) -> range:
    """``range`` bounded like every loop."""
    result = range(*args)
    if len(result) > MAX_ITERATIONS:
        raise ExpressionError(f"range() is longer than {MAX_ITERATIONS:,}")
    return result
