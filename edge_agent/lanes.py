"""An event that waits, and the events of one watch in memory."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

#: Bytes that an event takes on disk beside its body.
OVERHEAD = 60


class Item(Struct, eq=False):
    """One event of one watch."""

    seq: int
    watch: str
    priority: int
    at: float
    up: float
    body: bytes
    written: bool = False
    #: Acknowledged, or dropped: it needs no writing any more.
    gone: bool = False

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD


class Lane:
    """The events of one watch: ``window`` in memory, its first ``sent`` under way; more on disk if ``spilled``.

    ``newest`` is the highest number that memory has held; what is behind it on disk was never read.
    """

    __slots__ = ("durable", "filling", "name", "newest", "sent", "sent_bytes", "spilled", "window")

    def __init__(self, name: str, durable: bool) -> None:
        self.name = name
        self.durable = durable
        self.window: deque[Item] = deque()
        self.newest = -1
        self.sent = 0
        self.sent_bytes = 0
        self.spilled = False
        self.filling = False

    def without(self, numbers: set[int]) -> None:
        """Take these away, but for what is under way: that is perhaps a run already."""
        under_way, rest = list(self.window)[: self.sent], list(self.window)[self.sent :]
        self.window = deque([*under_way, *(item for item in rest if item.seq not in numbers)])
