"""How an answer came about, token by token: what was chosen and from which scores.

Together or alone, from a kept beginning or a fresh one, llama.cpp adds up the same numbers in another order and
rounds (mostly to float16, in its memory of what was read). That moves a tiny model's scores, which spread by about 1,
by a few thousandths; where two tokens lie closer than that, either may win, and all that follows differs. So answers
are compared by their scores: these must agree up to the first such tie, and nothing but a tie may part them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from appliance.ai.host.llama.native import Logits
from appliance.ai.host.llama.sampling import Choice

#: How far rounding moves a score; 0.005 was seen. Those of another prompt are off by 1 and more.
ROUNDING = 0.02


class Trail(Choice):
    """A choice that writes down what it did; ``newest`` is that of the last generation that was asked for."""

    newest: ClassVar[Trail]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[Logits] = []
        self.tokens: list[int] = []
        Trail.newest = self

    def scores(self, logits: Logits) -> Logits:
        found = super().scores(logits)
        self.seen.append(found.copy())
        return found

    def accept(self, token: int) -> None:
        super().accept(token)
        self.tokens.append(token)


def alike(one: Trail, other: Trail, *, cut: bool = False) -> None:
    """Two answers are the same, but for what a tie decides. ``cut``: the first was ended early."""
    for place, (ours, theirs) in enumerate(zip(one.tokens, other.tokens, strict=False)):
        off = float(np.abs(one.seen[place] - other.seen[place]).max())
        assert off < ROUNDING, f"token {place}: the scores are off by {off}"
        if ours != theirs:
            margin = float(abs(other.seen[place][theirs] - other.seen[place][ours]))
            assert margin < ROUNDING, f"token {place}: {ours} for {theirs}, which is better by {margin}"
            return
    assert len(one.tokens) == len(other.tokens) or (cut and len(one.tokens) < len(other.tokens))
