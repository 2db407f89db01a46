"""Models for embeddings that a test can reason about: a vector says which of some subjects a text is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from appliance.contracts import ConfigError, FlowError, Vectors

#: Words that mean the same point the same way.
SUBJECTS = (
    {"pump", "water", "flood", "leak", "basin"},
    {"lamp", "light", "dark", "bulb"},
    {"door", "gate", "burglar", "lock"},
    {"heat", "cold", "boiler", "frost"},
)


class Embedder:
    """Counts what it was asked; ``error`` is raised instead of an answer. It reads ``most`` characters of a text."""

    def __init__(self, model: str = "small", size: int = len(SUBJECTS)) -> None:
        self.model = model
        self.size = size
        self.error: FlowError | None = None
        self.asked: list[str] = []
        self.most = 1_000_000

    async def embed(self, texts: Sequence[str], model: str = "", timeout: float = 60.0) -> Vectors:
        if self.error is not None:
            raise self.error
        if any(len(text) > self.most for text in texts):
            raise ConfigError("the model host answered 400: too long", detail={"status": 400, "refused": True})
        self.asked += texts
        return Vectors(vectors=[self._vector(text) for text in texts], model=self.model, provider="test")

    def _vector(self, text: str) -> list[float]:
        words = set(re.findall(r"\w+", text.casefold()))
        counts = [float(len(words & subject)) for subject in SUBJECTS] + [0.0] * (self.size - len(SUBJECTS))
        length = sum(count * count for count in counts) ** 0.5 or 1.0
        return [count / length for count in counts]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the memory asked for models.{name}")


class NoModel(Embedder):
    """An engine without a model for embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.error = ConfigError("no model for embeddings is chosen")
