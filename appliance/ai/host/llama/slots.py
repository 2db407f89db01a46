"""Which evaluated tokens are in llama.cpp's memory, in which sequence. Pure bookkeeping.

A slot is one of llama.cpp's sequences. Slots that begin alike share the cells of that beginning, so a cell is counted
once however many slots hold it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from appliance.ai.host.llama.pictures import goes_on


class Slot:
    """One sequence: the tokens that are evaluated in it, by which adapter, and whether a job works in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        self.cells: list[int] = []
        self.adapter = ""
        self.busy = False


class Slots:
    """All sequences of a context that has ``cells`` cells.

    ``whole``: a slot's memory cannot be cut back, so it can only be continued where it ends.
    """

    def __init__(self, count: int, cells: int, *, whole: bool = False) -> None:
        self.slots = [Slot(number) for number in range(count)]
        self.capacity = cells
        self._whole = whole
        self._holders: Counter[int] = Counter()
        #: Cells that stand for several: those of a picture that takes more cells than positions.
        self._more: dict[int, int] = {}
        self._next_cell = 0

    @property
    def filled(self) -> int:
        """Cells that some slot holds."""
        return len(self._holders) + sum(self._more.values())

    def idle(self) -> Iterator[Slot]:
        """Slots that hold something for nobody."""
        return (slot for slot in self.slots if slot.tokens and not slot.busy)

    def empty(self) -> Slot | None:
        """A slot that holds nothing."""
        return next((slot for slot in self.slots if not slot.busy and not slot.tokens), None)

    def match(self, tokens: Sequence[int], adapter: str) -> tuple[Slot | None, int]:
        """The slot that begins with the most of ``tokens``, and how many those are; never all."""
        best, most = None, 0
        for slot in self.slots:
            if slot.adapter == adapter and (length := fitting(slot.tokens, tokens, whole=self._whole)) > most:
                best, most = slot, length
        return best, most

    def extend(self, slot: Slot, tokens: Sequence[int], more: int = 0) -> None:
        """Tokens were evaluated behind those it has; they took ``more`` cells than they are."""
        fresh = range(self._next_cell, self._next_cell + len(tokens))
        self._next_cell += len(tokens)
        slot.tokens.extend(tokens)
        slot.cells.extend(fresh)
        self._holders.update(fresh)
        if more:
            self._more[fresh[0]] = more

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
                self._more.pop(cell, None)
        del slot.tokens[length:], slot.cells[length:]


def fitting(known: Sequence[int], wanted: Sequence[int], *, whole: bool) -> int:
    """How many of the ``known`` tokens serve one who wants to read ``wanted``.

    Never all of ``wanted``: one token at least must be evaluated to know what comes next; nor a part of a picture. With
    ``whole`` all that is known or nothing.
    """
    if not known or not wanted or known[0] != wanted[0]:
        return 0
    length = min(common_prefix(known, wanted), len(wanted) - 1)
    while goes_on(wanted[length]):
        length -= 1
    return 0 if whole and length < len(known) else length


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
