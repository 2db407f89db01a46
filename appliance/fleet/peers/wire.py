"""The words of engines among themselves: msgpack maps with a tag ``t``, one frame each, as agents have them.

Both sides say :class:`Hello` at once, and :class:`Ready` or :class:`Refused` to the other's. From then on each may ask
and is asked. Fields may be added within a version, since unknown ones are skipped; what changes a meaning needs a new
version.

Blobs are fetched by who needs them: a message names those that its body refers to, the other side asks for the pieces
of what it lacks (:class:`Want`), and takes the message up once it has all. So each is sent once, and no more of it is
under way than was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import PeerOffers, PeerRoles

#: The versions that this code speaks, the best one last.
VERSIONS = (1,)
#: Bytes of one body, of one piece of a blob, and of a whole blob.
LARGEST_BODY = 3_000_000
PIECE = 262_144
LARGEST_BLOB = 64_000_000


class Message(Struct, tag_field="t", kw_only=True):
    """Base of every message."""


class Hello(Message, tag="hello", kw_only=True):
    """Who is there. ``instance`` is new with each start, ``machine`` tells hardware apart (marks, "" if unknown),
    ``port`` is where this engine can be dialled (0: nowhere).
    """

    versions: list[int]
    engine: str
    instance: str
    machine: str = ""
    name: str = ""
    software: str = ""
    port: int = 0


class Refused(Message, tag="refused"):
    """It is not let in, and the connection ends; ``id`` is ``version``, ``unknown``, ``clone``, ``moved``, ``double``,
    ``revoked`` or ``stops``; ``place`` is where the other one of two with one identity is.
    """

    id: str
    text: str
    place: str = ""


class Ready(Message, tag="ready"):
    """It is: what it may do here, what there is, and the port of the panel (0: other machines do not reach it)."""

    version: int
    roles: PeerRoles
    offers: PeerOffers
    panel: int = 0


class Roles(Message, tag="roles"):
    """What it may do here has changed."""

    roles: PeerRoles


class Offers(Message, tag="offers"):
    """What there is has changed, or the panel's port."""

    offers: PeerOffers
    panel: int = 0


class Blob(Struct, array_like=True, frozen=True):
    """A blob that a body refers to."""

    digest: str
    size: int
    type: str


class Ask(Message, tag="ask", kw_only=True):
    """A request; nobody waits for the answer after ``left`` seconds."""

    id: int
    method: str
    left: float
    body: msgspec.Raw
    blobs: list[Blob] = []


class Item(Message, tag="item", kw_only=True):
    """One item ahead of the answer to request ``id``."""

    id: int
    body: msgspec.Raw
    blobs: list[Blob] = []


class Answer(Message, tag="answer", kw_only=True):
    """The answer to request ``id``."""

    id: int
    body: msgspec.Raw
    blobs: list[Blob] = []


class Failed(Message, tag="failed", kw_only=True):
    """Request ``id`` failed: the id of the error, its text for people, and whether trying again may help."""

    id: int
    error: str
    text: str
    retryable: bool = True
    detail: Any = None
    retry_after: float = 0.0


class Cancel(Message, tag="cancel"):
    """Nobody waits for the answer to request ``id`` any more."""

    id: int


class Want(Message, tag="want"):
    """A piece of a blob, please."""

    digest: str
    offset: int


class Piece(Message, tag="piece"):
    """The piece that was asked for; without data if that blob is gone."""

    digest: str
    offset: int
    data: bytes


class Ping(Message, tag="ping"):
    """``sent`` is the sender's own clock, and comes back as it is."""

    sent: float


class Pong(Message, tag="pong"):
    """Answers a ping at once; ``at`` is the wall clock (Unix seconds)."""

    sent: float
    at: float


Word = Hello | Refused | Ready | Roles | Offers | Ask | Item | Answer | Failed | Cancel | Want | Piece | Ping | Pong

_encoder = msgspec.msgpack.Encoder(enc_hook=str, decimal_format="string")
#: Encodes a message, or a body.
encode = _encoder.encode
decoder: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)
#: Decodes a body.
decode_body = msgspec.msgpack.Decoder().decode


def common_version(theirs: list[int]) -> int | None:
    """The best version that both sides speak."""
    return max(set(theirs) & set(VERSIONS), default=None)


def blobs_in(value: Any) -> Iterator[Blob]:
    """The blobs that plain data refers to, each once."""
    seen, waiting = set(), [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            digest = each.get("$blob")
            if isinstance(digest, str) and digest not in seen:
                seen.add(digest)
                yield Blob(digest, int(each.get("size") or 0), str(each.get("type") or "application/octet-stream"))
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
