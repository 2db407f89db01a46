"""The episodic memory with 20,000 episodes: a recall by vectors and words together, and by words alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from appliance.ai.memory.episodes import Episodes, Place
from appliance.ai.memory.store import EpisodeStore, Wanted
from appliance.contracts import ConfigError, Vectors
from scripts.benchmarks.common import Row, percentile

EPISODES, SIZE, RECALLS = 20_000, 384, 30
_SUBJECTS = ("pump", "boiler", "door", "lamp", "greenhouse", "printer", "camera", "meter", "fridge", "gate")
_EVENTS = ("ran dry", "stayed open", "was too hot", "did not answer", "came back", "was cleaned", "lost its network")


class _Models:
    """Vectors that are at hand at once: what is measured is the memory, not the model."""

    def __init__(self, embeds: bool) -> None:
        self._embeds = embeds

    async def embed(self, texts: Sequence[str], model: str = "", timeout: float = 60.0) -> Vectors:
        if not self._embeds:
            raise ConfigError("no model")
        return Vectors(vectors=[_vector(text) for text in texts], model="bench", provider="bench")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _vector(text: str) -> list[float]:
    drawn = random.Random(text)  # a vector that is always the same for a text
    values = [drawn.gauss(0, 1) for _ in range(SIZE)]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def run(quick: bool) -> list[Row]:
    """Fill a memory (outside the measurement), then recall from it."""
    count = EPISODES // 10 if quick else EPISODES
    with TemporaryDirectory() as folder:
        _fill(Path(folder), count)
        both, bare = asyncio.run(_recalls(Path(folder), count, embeds=True))
        words, _ = asyncio.run(_recalls(Path(folder), count, embeds=False))
    return [
        Row("memory", f"recall by meaning and words, of {count:,}, p50", both, "ms"),
        Row("memory", f"recall by words alone, of {count:,}, p50", words, "ms"),
        Row("memory", "the product of a vector with as many, p50", bare, "ms"),
        Row("memory", "a recall is so many of these products", both / bare, "x", "<= 10", both / bare <= 10),
    ]


def _fill(data: Path, count: int) -> None:
    store = EpisodeStore(data, sync=False)
    episodes = Episodes(store, lambda value: value, lambda: _Models(True), time.time, time.monotonic)
    drawn = random.Random(1)

    async def fill() -> None:
        for number in range(count):
            text = f"The {drawn.choice(_SUBJECTS)} in room {number % 977} {drawn.choice(_EVENTS)} after {number} hours"
            await episodes.remember(
                Place("bench"), _Models(True), text, str(number), "solved", (), None, None, 10 * count
            )

    asyncio.run(fill())
    store.close()


async def _recalls(data: Path, count: int, *, embeds: bool) -> tuple[float, float]:
    """The medians, in milliseconds, of a recall and of the bare product of its vector, by turns.

    Files and vectors are in memory, as in a kernel that has recalled before.
    """
    import numpy as np

    store = EpisodeStore(data, sync=False)
    models = _Models(embeds)
    episodes = Episodes(store, lambda value: value, lambda: models, time.time, time.monotonic)
    table = np.ones((count, SIZE), dtype=np.float32)
    took, bare = [], []
    for number in range(RECALLS):
        query = f"Why did the {_SUBJECTS[number % len(_SUBJECTS)]} in room {number * 31} stay open?"
        began = time.perf_counter()
        found = await episodes.recall(Wanted(workspace="bench"), models, query, 5, "", 0.0)
        took.append((time.perf_counter() - began) * 1000)
        if not found:
            raise RuntimeError("nothing was recalled")
        vector = np.ones(SIZE, dtype=np.float32)
        began = time.perf_counter()
        _ = table @ vector
        bare.append((time.perf_counter() - began) * 1000)
    store.close()
    return percentile(took[3:], 0.5), percentile(bare[3:], 0.5)
