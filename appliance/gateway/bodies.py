"""Reading what came with a request: the body within its bound, JSON within a depth, query and path as types."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from appliance.contracts import Problem
from appliance.gateway.problems import BadRequest, Invalid, TooLarge, UnsupportedType

#: JSON nested deeper than this is refused: no flow needs it, and whoever walks a value must not run out of stack.
DEEPEST = 100
_PIECE = 65_536
_MAX_FIELDS = 200
_decode = msgspec.json.Decoder().decode


def read_body(environ: Mapping[str, Any], bound: int) -> bytes:
    """The request's body; reads at most a byte more than the bound. Raises ``TooLarge``, ``BadRequest``."""
    length = environ.get("CONTENT_LENGTH")
    if length:
        if not length.isdigit():
            raise BadRequest("Content-Length is not a number")
        size = int(length)
        if size > bound:
            raise _too_large(bound)
        data = _read(environ, size) if size else b""
        if len(data) < size:
            raise BadRequest(f"the body ends after {len(data):,} of {size:,} bytes")
        return data
    if not environ.get("HTTP_TRANSFER_ENCODING"):
        return b""
    parts, left = [], bound + 1
    while left > 0 and (part := _read(environ, min(left, _PIECE))):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise _too_large(bound)
    return b"".join(parts)


def _read(environ: Mapping[str, Any], size: int) -> bytes:
    try:
        data: bytes = environ["wsgi.input"].read(size)
    except Exception as exc:  # the server's own: a client that stalls or went away, chunks that are none
        raise BadRequest(f"the body cannot be read ({type(exc).__name__})") from None
    return data


def _too_large(bound: int) -> TooLarge:
    return TooLarge(f"the body is larger than {bound:,} bytes; the setting max_request_bytes allows more")


def decode_json(data: bytes) -> Any:
    """The value of a JSON text. Raises ``BadRequest`` for anything that is none, or is nested too deeply."""
    try:
        value = _decode(data)
    except UnicodeDecodeError as exc:
        raise BadRequest(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from None
    except RecursionError:
        raise too_deep() from None
    except msgspec.MsgspecError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from None
    check_depth(data, value)
    return value


def check_depth(data: bytes, value: Any) -> None:
    """Raises ``BadRequest`` if ``value``, the meaning of the text ``data``, is nested too deeply."""
    # So few brackets cannot be nested deeper, and counting them costs next to nothing.
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise too_deep()


def too_deep() -> BadRequest:
    return BadRequest(f"the body is nested deeper than {DEEPEST} levels")


def require_json(content_type: str) -> None:
    """Raises ``UnsupportedType`` for a body that is not said to be JSON: a foreign page cannot send that unasked."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedType("send the body as Content-Type: application/json")


def body_of(data: bytes, kind: Any) -> Any:
    """The body as its type. Raises ``BadRequest``, ``Invalid``."""
    return convert(decode_json(data), kind, "", strict=True)


def convert(value: Any, kind: Any, prefix: str, *, strict: bool) -> Any:
    """A value as a type. Raises ``Invalid`` that names the place."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except (msgspec.ValidationError, RecursionError) as exc:
        message, _, place = str(exc).partition(" - at `$")
        path = prefix + place.rstrip("`").lstrip(".")
        raise Invalid([Problem(path, message[:1].lower() + message[1:])]) from None


def query_of(text: str, kind: type[msgspec.Struct]) -> Any:
    """The query string as its type. Raises ``Invalid``; a parameter that is not known is a fault, not noise."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None
    except ValueError:
        raise BadRequest(f"the query has more than {_MAX_FIELDS} parameters") from None
    lists, names = query_fields(kind)
    values: dict[str, Any] = {}
    for name, value in pairs:
        _check_pair(name, value, names, repeated=name in values and name not in lists)
        if name in lists:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    query = convert(values, kind, "?", strict=False)
    for field in msgspec.structs.fields(kind):
        if field.encode_name in values and getattr(query, field.name) is None:
            raise Invalid([Problem(f"?{field.encode_name}", "must not be null; leave it out")])
    return query


def _check_pair(name: str, value: str, names: Iterable[str], *, repeated: bool) -> None:
    if name not in names:
        known = ", ".join(names) or "none"
        raise Invalid([Problem(f"?{name[:80]}", f"there is no such parameter here; there are: {known}")])
    if repeated:
        raise Invalid([Problem(f"?{name}", "is given twice")])
    if "\0" in value:
        raise Invalid([Problem(f"?{name}", "must not hold a NUL character")])


@functools.cache
def query_fields(kind: type[msgspec.Struct]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The fields of a query that may be repeated, and all of them, by their names in the address."""
    fields = msgspec.structs.fields(kind)
    lists = {field.encode_name for field in fields if _is_list(field.type)}
    return frozenset(lists), tuple(field.encode_name for field in fields)


def _is_list(kind: Any) -> bool:
    while hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    return get_origin(kind) in {list, tuple} or any(_is_list(part) for part in get_args(kind))


def parameter_of(text: str, kind: Any, name: str) -> Any:
    """A part of the path as its type. Raises ``Invalid``."""
    if "\0" in text:
        raise BadRequest(f"{name}: must not hold a NUL character")
    return convert(text, kind, name, strict=False)
