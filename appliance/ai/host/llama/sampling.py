"""Which token comes next: numpy over the scores of the whole vocabulary.

llama.cpp's own samplers build and sort a table of all tokens first, which costs a millisecond for 150,000 of them.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.llama.native import Logits

#: Tokens that a repeat penalty looks back at.
LOOK_BACK = 64
#: Scores this far (at temperature 1) below the best are left out before anything is sorted: e^-30 of its probability.
_HOPELESS = 30.0


class Choice:
    """The sampling settings of one generation. ``temperature`` 0 takes the best token every time."""

    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
    ) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._top_k = top_k
        self._min_p = min_p
        self._penalty = repeat_penalty
        self._random = np.random.default_rng(None if seed is None else seed % 2**64)
        self._recent: deque[int] = deque(maxlen=LOOK_BACK)

    @property
    def greedy(self) -> bool:
        """Whether the best token is taken every time."""
        return self._temperature <= 0.0

    def accept(self, token: int) -> None:
        """Remember what was chosen, for the repeat penalty."""
        if self._penalty != 1.0:
            self._recent.append(token)

    def scores(self, logits: Logits) -> Logits:
        """The scores with the repeat penalty: those of recent tokens divided by it, or multiplied if negative.

        The one of CTRL (Keskar and others 2019, https://arxiv.org/abs/1909.05858), as llama.cpp does it.
        """
        if self._penalty == 1.0 or not self._recent:
            return logits
        scores = logits.copy()
        recent = np.fromiter(set(self._recent), np.int32)
        found = scores[recent]
        scores[recent] = np.where(found > 0, found / self._penalty, found * self._penalty)
        return scores

    def pick(self, scores: Logits) -> int:
        """The index of the chosen score. ``ModelUnusable`` if the model computed no numbers."""
        best = int(scores.argmax())
        top = float(scores[best])
        if math.isnan(top) or top == math.inf:  # a NaN anywhere is argmax's answer
            raise ModelUnusable("the model computed no numbers (NaN): its file is damaged")
        if self.greedy:
            return best
        tokens = np.flatnonzero(scores > top - _HOPELESS * self._temperature)
        chances = scores[tokens].astype(np.float64)
        if 0 < self._top_k < len(tokens):
            kept = np.argpartition(-chances, self._top_k - 1)[: self._top_k]
            tokens, chances = tokens[kept], chances[kept]
        chances = np.exp((chances - top) / self._temperature)
        if self._min_p > 0.0:
            kept = np.flatnonzero(chances >= self._min_p)  # the best one's is 1
            tokens, chances = tokens[kept], chances[kept]
        if self._top_p < 1.0:
            order = np.argsort(-chances, kind="stable")
            tokens, chances = tokens[order], chances[order]
            enough = int(np.searchsorted(np.cumsum(chances), self._top_p * chances.sum())) + 1
            tokens, chances = tokens[:enough], chances[:enough]
        total = np.cumsum(chances)
        place = int(np.searchsorted(total, self._random.random() * total[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])
