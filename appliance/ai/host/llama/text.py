"""From tokens to text that can be shown: whole characters only, and nothing of a stop string. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextOut:
    """Takes the bytes of one token after the other and gives out text as soon as it is certain.

    What may be the beginning of a character or of a stop string is held back. The first stop string ends the text;
    neither it nor what follows is given out. All that was given out, joined, is ``text``.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._given: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """What was given out so far."""
        return "".join(self._given)

    def feed(self, data: bytes) -> str:
        """Bytes in, text out (often none)."""
        if self.stopped:
            return ""
        return self._give(self._decoder.decode(data), last=False)

    def finish(self) -> str:
        """The rest, when nothing more will come: half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        return self._give(self._decoder.decode(b"", final=True), last=True)

    def _give(self, new: str, *, last: bool) -> str:
        held = self._held + new
        found = min((place for stop in self._stops if (place := held.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped = True
            held, self._held = held[:found], ""
        else:
            keep = 0 if last else max((_overlap(held, stop) for stop in self._stops), default=0)
            held, self._held = held[: len(held) - keep], held[len(held) - keep :]
        if held:
            self._given.append(held)
        return held


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` may be the beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
