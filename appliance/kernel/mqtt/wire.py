"""MQTT 3.1.1 packets to and from bytes: no socket, no thread, no state but the parser's own rest.

Source: OASIS Standard "MQTT Version 3.1.1", 29 October 2014; section numbers are given at each function.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK = 2, 3, 4, 5, 6, 7, 9
#: Not an MQTT type (0 is reserved): a message that was longer than the parser's limit, cut to its head.
OVERSIZED = 0

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"

#: Bits of a PUBLISH packet's flags (3.3.1).
DUP, RETAIN = 8, 1

#: What the SUBACK says for a filter that the broker refuses (3.9.3).
REFUSED = 0x80

_LONGEST_TEXT = 65535
#: Enough of a message to know its topic and packet id (3.3.2), and so to acknowledge it.
_HEAD = 2 + _LONGEST_TEXT + 2

#: Type, flags and body (all that follows the fixed header) of one packet (2.2).
Packet = tuple[int, int, bytes]

_SHORT = struct.Struct("!BBH").pack
_PAIR = struct.Struct("!H").pack


class Malformed(Exception):
    """Bytes that are no MQTT: the connection has to be closed (4.8)."""


class Parser:
    """Cuts a stream of bytes into packets. ``limit``: the most bytes of one packet that are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 2
        self._skip = 0

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete now. Raises ``Malformed``."""
        if self._skip:
            data = self._skipped(data)
        self._chunks.append(data)
        self._have += len(data)
        if self._have < self._need:
            return []
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        packets: list[Packet] = []
        rest = self._cut(data, packets)
        self._chunks = [rest] if rest else []
        self._have = len(rest)
        return packets

    def _cut(self, data: bytes, packets: list[Packet]) -> bytes:
        position, end = 0, len(data)
        while True:
            self._need = 2
            if end - position < 2:
                return data[position:]
            size, start = data[position + 1], position + 2
            if size & 128:
                size, start = _remaining_length(data, position + 1)
                if start > end:
                    self._need = end - position + 1
                    return data[position:]
            stop = start + size
            first = data[position]
            if size > self._limit:
                if end - start < min(size, _HEAD):
                    self._need = start - position + min(size, _HEAD)
                    return data[position:]
                packets.append(_cut_short(first, data[start : min(stop, start + _HEAD)]))
                if stop > end:
                    self._skip = stop - end
                    return b""
            elif stop > end:
                self._need = stop - position
                return data[position:]
            else:
                packets.append((first >> 4, first & 15, data[start:stop]))
            position = stop

    def _skipped(self, data: bytes) -> bytes:
        dropped = min(self._skip, len(data))
        self._skip -= dropped
        return data[dropped:]


def _remaining_length(data: bytes, position: int) -> tuple[int, int]:
    """Value and end of a variable length of one to four bytes (2.2.3); an end past the data: incomplete."""
    value = 0
    for shift in (0, 7, 14, 21):
        if position >= len(data):
            return 0, position + 1
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise Malformed("a packet's length is longer than four bytes")


def _cut_short(first: int, head: bytes) -> Packet:
    if first >> 4 != PUBLISH:
        raise Malformed(f"a packet of type {first >> 4} is longer than any such packet")
    return OVERSIZED, first & 15, head


def text(value: str | bytes) -> bytes:
    """A length-prefixed UTF-8 string (1.5.3). Raises ``ValueError`` past 65,535 bytes."""
    raw = value.encode() if isinstance(value, str) else value
    if len(raw) > _LONGEST_TEXT:
        raise ValueError("longer than 65,535 bytes")
    return _PAIR(len(raw)) + raw


def _framed(first: int, *parts: bytes) -> bytes:
    size = sum(map(len, parts))
    head = bytearray((first,))
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return b"".join((bytes(head), *parts))


def connect(client_id: str, *, clean: bool, keepalive: int, user: str, password: str) -> bytes:
    """CONNECT (3.1); ``keepalive`` in seconds. A password needs a user name (3.1.2.9)."""
    flags = 2 if clean else 0
    parts = [text(client_id)]
    if user:
        flags |= 0x80
        parts.append(text(user))
        if password:
            flags |= 0x40
            parts.append(text(password))
    return _framed(0x10, b"\x00\x04MQTT\x04", struct.pack("!BH", flags, keepalive), *parts)


def connack(body: bytes) -> tuple[bool, int]:
    """Whether the broker has kept a session of ours, and its return code; 0 is welcome (3.2.2)."""
    if len(body) != 2:
        raise Malformed("a CONNACK that is not two bytes long")
    return bool(body[0] & 1), body[1]


def publish(topic: bytes, payload: bytes, qos: int, retain: bool, dup: bool, mid: int) -> bytes:
    """PUBLISH (3.3); ``topic`` with its length as :func:`text` makes it, ``mid`` unused for QoS 0."""
    first = 0x30 | qos << 1 | retain | (DUP if dup else 0)
    if qos:
        return _framed(first, topic, _PAIR(mid), payload)
    return _framed(first, topic, payload)


def published(flags: int, body: bytes) -> tuple[str, int, bytes]:
    """Topic, packet id (0 for QoS 0) and payload of a PUBLISH (3.3.2)."""
    start = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:start]
    qos = flags >> 1 & 3
    stop = start + 2 if qos else start
    if len(body) < max(stop, 2) or qos == 3:
        raise Malformed("a PUBLISH that is too short or of QoS 3")
    mid = int.from_bytes(body[start:stop], "big")
    return topic.decode(errors="replace"), mid, body[stop:]


def answer(kind: int, mid: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP for packet id ``mid`` (3.4 to 3.7)."""
    return _SHORT(kind << 4 | (2 if kind == PUBREL else 0), 2, mid)


def answered(body: bytes) -> int:
    """The packet id of a PUBACK, PUBREC, PUBREL or PUBCOMP."""
    if len(body) != 2:
        raise Malformed("an acknowledgement that is not two bytes long")
    return body[0] << 8 | body[1]


def subscribe(mid: int, filters: Sequence[str], qos: int) -> bytes:
    """SUBSCRIBE to every filter with one maximum QoS (3.8)."""
    return _framed(0x82, _PAIR(mid), *(text(each) + bytes((qos,)) for each in filters))


def suback(body: bytes) -> tuple[int, list[int]]:
    """The packet id, and for each filter the QoS granted or :data:`REFUSED` (3.9)."""
    if len(body) < 3:
        raise Malformed("a SUBACK without a return code")
    return body[0] << 8 | body[1], list(body[2:])


def unsubscribe(mid: int, filters: Iterable[str]) -> bytes:
    """UNSUBSCRIBE (3.10); filters that were never subscribed to do no harm."""
    return _framed(0xA2, _PAIR(mid), *map(text, filters))
