"""What engines say to each other about steps: the forms of the methods ``step`` and ``step_wanted``.

A step is asked for with ``step`` and all that it needs; items tell the run that it has there (``{"run"}``, once that is
on disk) and what it streams (``{"text"}``, ``{"anew"}``), the answer is its outcome. The same method with nothing but
the id asks again. The id is journaled on both sides: there it is the event's id of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Blobs, ConfigError, NodeError
from appliance.contracts.peers import PeerRequest
from appliance.engine import trace

#: Values of more bytes go beside a message, as blobs.
ASIDE = 400_000
VALUE = "application/x-flowork-value"
_BYTES = "$bytes"

#: The outcome of a step. ``unknown``: never heard of. ``again``: it was heard of, and all of it is needed once more
#: (its secrets were kept nowhere). ``gone``: it was done, and how it ended is not kept any more.
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
UNKNOWN, AGAIN, GONE = "unknown", "again", "gone"

RequestId = Annotated[str, Meta(min_length=1, max_length=400)]

T = TypeVar("T")


class StepAsked(Struct, kw_only=True):
    """``step``. ``node`` is the node as it is saved there, ``config`` its settings with all templates filled in.

    ``key`` is the step's idempotency key, ``names`` and ``secrets`` the values of what its expressions read,
    ``hide`` the secrets in all this, which are never kept. With ``ask`` alone: how does it stand?
    """

    id: RequestId
    ask: bool = False
    key: str = ""
    node: dict[str, Any] = {}
    config: dict[str, Any] = {}
    payload: Any = None
    sources: list[str] = []
    event: dict[str, Any] = {}
    names: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    hide: list[str] = []
    workspace: str = ""
    flow: str = ""
    run: str = ""
    attempt: int = 1


class Outcome(Struct, kw_only=True):
    """How a step stands or ended; ``run`` is the run there, ``took`` its microseconds."""

    state: str
    port: str = "out"
    value: Any = None
    error: dict[str, Any] = {}
    logs: list[list[Any]] = []
    run: str = ""
    took: int = 0


class Wanted(Struct):
    """``step_wanted``: does the engine that asked for them still want these?"""

    ids: Annotated[list[RequestId], Meta(max_length=10_000)]


def light(value: Any, blobs: Blobs) -> Any:
    """The value, or the reference to it in a blob if it is large."""
    packed = trace.pack(value)
    if len(packed) <= ASIDE:
        return value
    # What it refers to is named beside it: those who carry it do not look into it.
    inside = {reference["$blob"]: reference for reference in references(value)}
    return {**blobs.put(packed, VALUE), **({"with": list(inside.values())} if inside else {})}


def bytes_aside(values: Mapping[str, Any], blobs: Blobs) -> dict[str, Any]:
    """Named values, with bytes (a picture, a sound) put into blobs: what is carried beside a message has no bound."""
    return {name: {_BYTES: blobs.put(value)} if isinstance(value, bytes) else value for name, value in values.items()}


def bytes_back(values: Mapping[str, Any], blobs: Blobs) -> dict[str, Any]:
    """What :func:`bytes_aside` was given. Raises ``NodeError`` for a blob that is not there."""

    def back(value: Any) -> Any:
        return blobs.get(value[_BYTES]) if isinstance(value, dict) and value.keys() == {_BYTES} else value

    return {name: back(value) for name, value in values.items()}


def references(value: Any) -> Iterator[dict[str, Any]]:
    """The references to blobs in plain data."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if isinstance(each.get("$blob"), str):
                yield {name: each[name] for name in ("$blob", "size", "type") if name in each}
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each


def whole(value: Any, blobs: Blobs) -> Any:
    """What :func:`light` was given. Raises ``NodeError`` for a blob that is not there."""
    if isinstance(value, dict) and value.get("type") == VALUE and "$blob" in value:
        return trace.unpack(blobs.get(value))
    return value


class AtPeer(NodeError):
    """What went wrong with a step at a peer, as it was said there."""

    def __init__(self, error: dict[str, Any], peer: str) -> None:
        detail = error.get("detail")
        super().__init__(
            f"at {peer}: {error.get('message', 'it failed')}",
            retryable=bool(error.get("retryable", True)),
            detail=detail,
        )
        self.id = str(error.get("id", "node-failed"))  # type: ignore[misc]  # it says what it was there


def asked(request: PeerRequest, kind: type[T], fault: str = "") -> T | None:
    """What a peer has asked; None if that is not of this kind, which it has been told then."""
    try:
        return msgspec.convert(request.body, kind)
    except msgspec.ValidationError as exc:
        request.error(ConfigError(f"{fault}: {exc}" if fault else str(exc)))
        return None
