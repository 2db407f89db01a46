"""Which evaluated tokens are in memory, in which sequence, and what may be forgotten. Pure bookkeeping.

A slot is one of llama.cpp's sequences. Slots that begin alike share the cells of that beginning, so a cell is counted
once however many slots hold it. The one that used a slot last decides when it goes: the longest unused first, those
pinned (the shared beginnings of prompts) after all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence


class Slot:
    """One sequence: the tokens that are evaluated in it, with whom (``adapter``), and who uses it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        self.cells: list[int] = []
        self.adapter = ""
        #: A job works in it.
        self.busy = False
        #: It must not be forgotten just now.
        self.held = False
        self.pinned = False
        #: Whether a pinned slot is on disk already.
        self.saved = False
        self.used = 0


class Slots:
    """All sequences of a context that has ``cells`` cells.

    ``whole``: a slot's memory cannot be cut back, so it can only be continued where it ends.
    """

    def __init__(self, count: int, cells: int, *, whole: bool = False) -> None:
        self.slots = [Slot(number) for number in range(count)]
        self.capacity = cells
        self._whole = whole
        self._holders: Counter[int] = Counter()
        self._next_cell = 0
        self._tick = 0

    @property
    def filled(self) -> int:
        """Cells that some slot holds."""
        return len(self._holders)

    def pins(self) -> Iterator[Slot]:
        """Slots that hold a shared beginning."""
        return (slot for slot in self.slots if slot.pinned)

    def match(self, tokens: Sequence[int], adapter: str) -> tuple[Slot | None, int]:
        """The slot that begins with the most of ``tokens``, and how many those are.

        Never all: at least one token must be evaluated to know what comes next.
        """
        best, most = None, 0
        for slot in self.slots:
            if slot.adapter != adapter or len(slot.tokens) <= most:
                continue
            common = common_prefix(slot.tokens, tokens)
            common = min(common, len(tokens) - 1)
            if self._whole and common < len(slot.tokens):
                continue
            if common > most:
                best, most = slot, common
        return best, most

    def pinned(self, tokens: Sequence[int], adapter: str) -> Slot | None:
        """The pinned slot that holds exactly these tokens."""
        wanted = list(tokens)
        return next((slot for slot in self.pins() if slot.adapter == adapter and slot.tokens == wanted), None)

    def touch(self, slot: Slot) -> None:
        """It was used just now."""
        self._tick += 1
        slot.used = self._tick

    def extend(self, slot: Slot, tokens: Sequence[int]) -> None:
        """Tokens were evaluated behind those it has."""
        fresh = range(self._next_cell, self._next_cell + len(tokens))
        self._next_cell += len(tokens)
        slot.tokens.extend(tokens)
        slot.cells.extend(fresh)
        self._holders.update(fresh)

    def share(self, source: Slot, target: Slot, length: int) -> None:
        """An empty slot got the first ``length`` tokens of another."""
        target.tokens = source.tokens[:length]
        target.cells = source.cells[:length]
        target.adapter = source.adapter
        self._holders.update(target.cells)

    def cut(self, slot: Slot, length: int = 0) -> None:
        """What stands behind ``length`` tokens was forgotten."""
        for cell in slot.cells[length:]:
            self._holders[cell] -= 1
            if not self._holders[cell]:
                del self._holders[cell]
        del slot.tokens[length:], slot.cells[length:]
        if not length:
            slot.pinned = slot.saved = False

    def oldest(self) -> Slot | None:
        """What is to be forgotten next: the idle slot unused for longest, a pinned one only if all are pinned."""
        idle = [slot for slot in self.slots if not (slot.busy or slot.held) and slot.tokens]
        return min(idle, key=lambda slot: (slot.pinned, slot.used), default=None)

    def empty(self) -> Slot | None:
        """A slot that holds nothing."""
        return next((slot for slot in self.slots if not slot.busy and not slot.tokens), None)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(one), len(other))
    if list(one[:length]) == list(other[:length]):
        return length
    low, high = 0, length  # the first difference lies behind low and before high
    while high - low > 1:
        middle = (low + high) // 2
        if list(one[low:middle]) == list(other[low:middle]):
            low = middle
        else:
            high = middle
    return low
