"""Large values, stored once by their content: what nodes receive as ``ctx.blobs``, and what the collection needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class BlobInfo(NamedTuple):
    """A stored blob; ``used`` is when it was last put (Unix seconds)."""

    digest: str
    size: int
    used: float


class BlobStore(ABC):
    """Implements :class:`appliance.contracts.Blobs`. Safe from any thread."""

    #: Takes out of a blob what must not be kept.
    clean: Callable[[bytes], bytes]

    @abstractmethod
    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]:
        """Store and return the reference. Raises ``NodeError`` when the disk is full or fails."""

    @abstractmethod
    def get(self, reference: Mapping[str, Any]) -> bytes:
        """The content. Raises ``NodeError`` (no retry) for a blob that is missing, damaged or none."""

    @abstractmethod
    def keep(self, digest: str, size: int) -> bool:
        """Whether it is there; if so, it counts as used at this moment."""

    @abstractmethod
    def __iter__(self) -> Iterator[BlobInfo]:
        """Every blob, in no order. What is put or deleted meanwhile may or may not be among them."""

    @abstractmethod
    def delete(self, digest: str, *, unused_since: float = math.inf) -> bool:
        """Delete unless it was put at or after that moment (Unix seconds). False: kept, or not there."""

    def clear_leftovers(self, before: float) -> int:
        """Remove what power cuts left unfinished before that moment (Unix seconds); returns how many."""
        return 0

    def close(self) -> None:  # noqa: B027  # files have nothing to close
        """Let go of connections. Twice is fine."""
