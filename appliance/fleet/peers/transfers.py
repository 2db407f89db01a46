"""The blobs of one link: what the peer may fetch of ours, and what we fetch of its.

Used on the peers' thread only.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from appliance.contracts import FlowError
from appliance.fleet.peers import wire
from edge_agent.protocol.channel import ChannelClosed

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Pieces of one blob that are asked for at one time, and blobs that are fetched at one time.
WINDOW, AT_ONCE = 4, 2
#: Bytes of messages that may wait for their blobs.
MOST_WAITING = 64_000_000
#: Blobs that a peer may still ask for, the newest ones.
OFFERED = 10_000


class BlobKeeper(Protocol):
    """What is needed of the engine's blobs."""

    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]: ...
    def get(self, reference: Mapping[str, Any]) -> bytes: ...
    def keep(self, digest: str, size: int) -> bool:
        """Whether it is there; if so, it counts as used at this moment."""


class Incoming(Struct):
    """A blob that is being fetched."""

    blob: wire.Blob
    data: bytearray
    asked: int = 0


class Waiting(Struct):
    """A message that is taken up once its blobs are there; ``failed`` is called with why they never will be."""

    needs: set[str]
    size: int
    deliver: Callable[[], None]
    failed: Callable[[str], None]


class Transfers:
    """``send`` sends a message to the peer."""

    def __init__(self, blobs: BlobKeeper, send: Callable[[wire.Message], None]) -> None:
        self._blobs = blobs
        self._send = send
        self._offered: OrderedDict[str, int] = OrderedDict()
        #: What is being fetched from us piece by piece: it is read, and checked, once.
        self._at_hand: OrderedDict[str, bytes] = OrderedDict()
        self._fetching: dict[str, Incoming] = {}
        self._queue: OrderedDict[str, wire.Blob] = OrderedDict()
        self._waiting: dict[tuple[str, int], deque[Waiting]] = {}

    # --- ours, which the peer fetches ---------------------------------------------------------------

    def offer(self, blobs: Iterable[wire.Blob]) -> None:
        """These are named in what we send: the peer may ask for them, and for no others."""
        for blob in blobs:
            self._offered[blob.digest] = blob.size
            self._offered.move_to_end(blob.digest)
        while len(self._offered) > OFFERED:
            self._offered.popitem(last=False)

    def wanted(self, want: wire.Want) -> None:
        """The peer asks for a piece."""
        whole = self._whole_of(want.digest) if want.digest in self._offered and want.offset >= 0 else b""
        data = whole[want.offset : want.offset + wire.PIECE]
        if want.offset + wire.PIECE >= len(whole):
            self._at_hand.pop(want.digest, None)  # it was the last piece
        self._send(wire.Piece(digest=want.digest, offset=want.offset, data=data))

    def _whole_of(self, digest: str) -> bytes:
        if (known := self._at_hand.get(digest)) is not None:
            return known
        try:
            whole = self._at_hand[digest] = self._blobs.get({"$blob": digest})
        except FlowError:
            return b""  # it is gone
        while len(self._at_hand) > AT_ONCE:
            self._at_hand.popitem(last=False)
        return whole

    # --- the peer's, which we fetch -------------------------------------------------------------------

    def take_up(
        self,
        key: tuple[str, int],
        size: int,
        blobs: Iterable[wire.Blob],
        deliver: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        """Deliver a message of ``size`` bytes once its blobs are here, and behind those of the same ``key`` that came
        before it. Raises ``ChannelClosed`` for a peer that sends more than can wait.
        """
        needs = set()
        for blob in blobs:
            if not _DIGEST.fullmatch(blob.digest) or not 0 <= blob.size <= wire.LARGEST_BLOB:
                failed(f"a blob of {blob.size:,} bytes cannot be sent; {wire.LARGEST_BLOB:,} is the most")
                return
            if blob.digest in self._fetching or blob.digest in self._queue:
                needs.add(blob.digest)
            elif not self._blobs.keep(blob.digest, blob.size):
                needs.add(blob.digest)
                self._queue[blob.digest] = blob
        if not needs and key not in self._waiting:
            deliver()
            return
        if sum(each.size for waiting in self._waiting.values() for each in waiting) + size > MOST_WAITING:
            raise ChannelClosed("it sends more than can wait")
        self._waiting.setdefault(key, deque()).append(Waiting(needs, size, deliver, failed))
        self._fetch()

    def came(self, piece: wire.Piece) -> None:
        """A piece has come."""
        incoming = self._fetching.get(piece.digest)
        if incoming is None or piece.offset != len(incoming.data):
            return
        incoming.data += piece.data
        size = incoming.blob.size
        if len(incoming.data) >= size:
            self._whole(incoming)
        elif not piece.data:
            self._over(piece.digest, f"blob {piece.digest[:12]} is gone on the other side")
        else:
            self._ask(incoming)

    def _whole(self, incoming: Incoming) -> None:
        blob, data = incoming.blob, bytes(incoming.data)
        if len(data) != blob.size or hashlib.sha256(data).hexdigest() != blob.digest:
            self._over(blob.digest, f"blob {blob.digest[:12]} was not what it was said to be")
            return
        try:
            self._blobs.put(data, blob.type)
        except FlowError as exc:
            self._over(blob.digest, exc.message)
            return
        self._over(blob.digest, "")

    def _over(self, digest: str, why: str) -> None:
        """A blob is here, or never will be."""
        self._fetching.pop(digest, None)
        self._fetch()
        for key, waiting in list(self._waiting.items()):
            for each in list(waiting):
                if digest in each.needs:
                    each.needs.discard(digest)
                    if why:
                        waiting.remove(each)
                        each.failed(why)
            while waiting and not waiting[0].needs:
                waiting.popleft().deliver()
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def _fetch(self) -> None:
        while self._queue and len(self._fetching) < AT_ONCE:
            digest, blob = self._queue.popitem(last=False)
            incoming = self._fetching[digest] = Incoming(blob, bytearray())
            self._ask(incoming)

    def _ask(self, incoming: Incoming) -> None:
        limit = min(incoming.blob.size, len(incoming.data) + WINDOW * wire.PIECE)
        if incoming.blob.size == 0 and not incoming.asked:
            limit = 1
        while incoming.asked < limit:
            self._send(wire.Want(digest=incoming.blob.digest, offset=incoming.asked))
            incoming.asked += wire.PIECE
