"""How well an episode fits what is asked for.

    score     = relevance x (0.7 + 0.3 x recency) x (1, or 0.6 where another outcome is preferred)
    relevance = 0.65 x meaning + 0.35 x words, or words alone where there is no vector of either
    meaning   = the cosine of the two vectors; what points apart counts 0
    words     = of the query's words, the share that stands in the episode, each weighing ln(1 + N / n):
                N episodes in all, n of them with the word (the inverse document frequency of K. Spärck Jones, 1972)
    recency   = 0.5 to the power of (age / 30 days)

Each is between 0 and 1. So relevance comes first, and of two that fit alike the newer one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from appliance.contracts import Episode

HALF_LIFE = 30 * 86_400.0
MEANING = 0.65
FRESHNESS = 0.3
OTHER_OUTCOME = 0.6


def word_weights(counts: Mapping[str, int], episodes: int) -> dict[str, float]:
    """What each word of a query tells, by how rare it is; a word that stands nowhere counts as the rarest."""
    return {word: math.log(1 + episodes / max(count, 1)) for word, count in counts.items()}


def word_share(found: Iterable[str], weights: Mapping[str, float]) -> float:
    """The share of a query's words that an episode has, by weight."""
    total = sum(weights.values())
    return sum(weights[word] for word in found) / total if total else 0.0


def scored(episode: Episode, meaning: float | None, words: float, now: float, outcome: str) -> Episode:
    """The episode with its score; ``outcome`` is the preferred one, if any is."""
    near = None if meaning is None else min(max(meaning, 0.0), 1.0)
    relevance = words if near is None else MEANING * near + (1 - MEANING) * words
    recency = 0.5 ** (max(0.0, now - episode.time) / HALF_LIFE)
    fit = 1.0 if not outcome or episode.outcome == outcome else OTHER_OUTCOME
    score = relevance * (1 - FRESHNESS + FRESHNESS * recency) * fit
    return msgspec.structs.replace(
        episode,
        score=round(score, 4),
        meaning=None if near is None else round(near, 4),
        words=round(words, 4),
        recency=round(recency, 4),
    )
