"""What is kept of a run: one record for everything that happened to a step, packed with msgpack.

Records are appended in the order in which things happened and are never changed; a run's state is their fold
(:mod:`appliance.engine.runner`), and the panel's time travel is a walk along them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

DONE = 1
#: Done, and the output is the very payload that came in (not written twice).
SAME = 2
#: An attempt failed; ``extra.again`` is the moment of the next one.
RETRY = 3
#: About to have an effect that must happen once.
INTENT = 4
PARKED = 5
SPAWNED = 6
#: A parked step was woken; ``value`` is what by.
WOKEN = 7
#: A ``once`` step was cut off by a crash; a person decides.
UNVERIFIED = 8
#: Failed for good.
FAILED = 9
#: Taken over from the run that this one replays.
SEEDED = 10
#: A line about the run as a whole (``value`` is text).
NOTE = 11

KINDS = {
    DONE: "done",
    SAME: "done",
    RETRY: "retry",
    INTENT: "intent",
    PARKED: "parked",
    SPAWNED: "spawned",
    WOKEN: "woken",
    UNVERIFIED: "unverified",
    FAILED: "failed",
    SEEDED: "seeded",
    NOTE: "note",
}


class Record(Struct, array_like=True, gc=False):
    """One thing that happened to the step of node number ``node``.

    ``at`` and ``took`` are microseconds, ``at`` since the run was accepted. ``extra`` may hold ``config``
    (rendered), ``saw`` (values of vars, state, now), ``fired`` (numbers of the edges that fired, where
    conditions decided), ``logs``, ``until``, ``signals``, ``ask``, ``again``, ``stderr``.
    """

    kind: int
    node: int
    attempt: int
    at: int
    took: int
    port: str
    value: Any
    extra: dict[str, Any] | None = None


_decoder = msgspec.msgpack.Decoder(list[Record])
_generic = msgspec.msgpack.Decoder()


def _plain(value: Any) -> Any:
    """Values that plug-ins return although JSON has no such thing, as text."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain, decimal_format="string")


def encode(record: Record) -> bytes:
    """Pack a record. Raises ``TypeError`` or ``OverflowError`` for what msgpack cannot hold."""
    return _encoder.encode(record)


def pack(value: Any) -> bytes:
    """Pack a bare value the way records are packed."""
    return _encoder.encode(value)


def unpack(data: bytes) -> Any:
    """The value of :func:`pack`."""
    return _generic.decode(data)


def pack_event(form: list[Any], trigger: str, accepted: int) -> bytes:
    """Pack ``[id, view, payload, item]``, leaving out of the view what the run's row says already.

    ``accepted`` is in microseconds since 1970. Raises what :func:`pack` raises.
    """
    head, view, payload, item = form
    told = {"id": head, "trigger": trigger, "time": accepted / 1e6}
    return pack([head, {k: v for k, v in view.items() if k not in told or told[k] != v}, payload, item])


def unpack_event(data: bytes, trigger: str, accepted: int) -> list[Any]:
    """The form that :func:`pack_event` was given."""
    head, view, payload, item = unpack(data)
    return [head, {"id": head, "trigger": trigger, "time": accepted / 1e6, **view}, payload, item]


def join(records: list[bytes]) -> bytes:
    """One chunk of packed records: a msgpack array header and the records behind it."""
    count = len(records)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 65_536:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(records)


def split(chunk: bytes) -> list[Record]:
    """The records of a chunk. Raises ``msgspec.DecodeError`` for a damaged one."""
    return _decoder.decode(chunk)


def records_of(chunks: Iterable[bytes]) -> Iterator[Record]:
    """All records of a run in order."""
    for chunk in chunks:
        if chunk:
            yield from split(chunk)
