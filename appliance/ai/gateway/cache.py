"""Answers that are known: to the same question of the same model at temperature 0, and vectors of the same text.

In memory, by content, bounded in bytes; the ones that were not asked for longest go first. Nothing of it is on disk: a
card would be worn by it, and an answer that matters is in its run's history.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from appliance.ai.gateway.names import Target
from appliance.contracts import ChatReply, ChatRequest

#: Seconds for which an answer is given again: elsewhere a model may be replaced by another one of its name.
LONGEST = 86_400.0
#: Bytes that an entry takes besides what is in it, about.
_BESIDES = 200


class Cache:
    """Safe on one thread. ``bound`` is in bytes; the clock is monotonic seconds."""

    def __init__(self, bound: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound = bound
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    def resize(self, bound: int) -> None:
        """Another bound from now on."""
        self._bound = bound
        self._trim()

    def answer(self, key: bytes) -> ChatReply | None:
        """A known answer; what it cost was paid before."""
        found = self._get(key)
        if found is None:
            return None
        reply = msgspec.msgpack.decode(found, type=ChatReply)
        return msgspec.structs.replace(reply, from_cache=True, cost=0.0, seconds=0.0, first=0.0)

    def keep_answer(self, key: bytes, reply: ChatReply) -> None:
        self._put(key, msgspec.msgpack.encode(reply))

    def vector(self, key: bytes) -> list[float] | None:
        """A known vector, to the precision that models have (32 bits)."""
        found = self._get(key)
        return None if found is None else array("f", found).tolist()

    def keep_vector(self, key: bytes, vector: list[float]) -> None:
        self._put(key, array("f", vector).tobytes())

    def _get(self, key: bytes) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if self._clock() - found[0] > LONGEST:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    def _put(self, key: bytes, data: bytes) -> None:
        if key in self._entries:
            self._drop(key)
        if len(data) + _BESIDES <= self._bound // 4:
            self._entries[key] = (self._clock(), data)
            self.size += len(data) + _BESIDES
            self._trim()

    def _drop(self, key: bytes) -> None:
        self.size -= len(self._entries.pop(key)[1]) + _BESIDES

    def _trim(self) -> None:
        while self.size > self._bound:
            self._drop(next(iter(self._entries)))


def key_of(target: Target, request: ChatRequest, edition: str = "") -> bytes | None:
    """What tells one question from another; None for one whose answer may differ each time.

    ``edition`` tells models of the same name from each other.
    """
    if not request.cache or request.temperature != 0.0:
        return None
    parts = [
        list(request.messages),
        request.prompt,
        request.schema,
        request.top_p,
        request.seed,
        request.max_tokens,
        request.stop,
    ]
    return _digest(target, edition, parts)


def key_of_text(target: Target, text: str, edition: str = "") -> bytes:
    """The same for a text that becomes a vector."""
    return _digest(target, edition, text)


def _digest(target: Target, edition: str, content: object) -> bytes:
    place = [target.upstream.name, msgspec.json.encode(target.upstream.config), target.model, edition]
    return hashlib.sha256(msgspec.msgpack.encode([place, content])).digest()
