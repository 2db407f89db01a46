"""Evaluated texts that nobody works with at the moment, put away in memory. Pure bookkeeping.

What lies in llama.cpp's own cells slows everything down, for each evaluation looks at all of them: a thousand cells of
others cost a small model a tenth of its speed. Put away as a block of bytes they cost nothing, and are back within
milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from appliance.ai.host.llama.slots import fitting


class Kept:
    """The state of some tokens. ``pinned``: a shared beginning of prompts; ``saved``: it is on disk as well."""

    def __init__(
        self, tokens: list[int], adapter: str, state: bytearray | memoryview, *, pinned: bool, saved: bool = False
    ) -> None:
        self.tokens = tokens
        self.adapter = adapter
        self.state = state
        self.pinned = pinned
        self.saved = saved
        self.used = 0


class Shelf:
    """At most ``bound`` bytes. The longest unused goes first, shared beginnings after all others.

    ``whole``: a state cannot be cut back, so it is of use only to what begins with all of it.
    """

    def __init__(self, bound: int, *, whole: bool = False) -> None:
        self._bound = bound
        self._whole = whole
        self._kept: list[Kept] = []
        self._tick = 0

    @property
    def bytes(self) -> int:
        """What all of it takes."""
        return sum(len(kept.state) for kept in self._kept)

    def pins(self) -> Iterator[Kept]:
        """The shared beginnings."""
        return (kept for kept in self._kept if kept.pinned)

    def match(self, tokens: Sequence[int], adapter: str) -> tuple[Kept | None, int]:
        """What begins with the most of ``tokens``, and how many of them that are; never all."""
        best, most = None, 0
        for kept in self._kept:
            if kept.adapter == adapter and (length := fitting(kept.tokens, tokens, whole=self._whole)) > most:
                best, most = kept, length
        return best, most

    def find(self, tokens: Sequence[int], adapter: str) -> Kept | None:
        """The shared beginning of exactly these tokens."""
        wanted = list(tokens)
        return next((kept for kept in self.pins() if kept.adapter == adapter and kept.tokens == wanted), None)

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()

    def touch(self, kept: Kept) -> None:
        """It was used just now."""
        self._tick += 1
        kept.used = self._tick

    def add(self, kept: Kept) -> list[Kept]:
        """Put something away; returns what had to go for it (itself, if it is too large).

        Unpinned texts that only begin like a longer one go without a word.
        """
        self._kept = [
            other
            for other in self._kept
            if other.pinned or other.adapter != kept.adapter or kept.tokens[: len(other.tokens)] != other.tokens
        ]
        self._kept.append(kept)
        self.touch(kept)
        gone = []
        while self.bytes > self._bound:
            gone.append(min(self._kept, key=lambda one: (one is kept, one.pinned, one.used)))
            self._kept.remove(gone[-1])
        return gone
