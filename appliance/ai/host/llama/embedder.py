"""Vectors from an embedding model: many texts in one call, pooled as the model says, of length 1."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.llama import Options
from appliance.ai.host.llama.apart import apart
from appliance.ai.host.llama.native import Context, Model
from appliance.contracts import ConfigError, NodeError

#: Tokens evaluated in one call at least, however short the model's context.
_BATCH = 512
_TOGETHER = 16
#: Characters of a text by which an error names it.
_SHOWN = 40


class Embedder:
    """One context for embeddings; callers of several threads take turns."""

    def __init__(self, model: Model, options: Options, *, pooling: int, context: int) -> None:
        self.context = min(context, options.context or 2048)
        self._model = model
        self._lock = threading.Lock()
        self._closed = False
        self._batch = max(self.context, _BATCH)  # a text that is read in both directions must fit into one call
        self._memory = Context(
            model,
            cells=self._batch,
            sequences=_TOGETHER,
            batch=self._batch,
            threads=options.reading_threads(),
            prompt_threads=options.reading_threads(),
            pooling=pooling,
        )

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order. ``ConfigError`` for a text that is longer than the model reads."""
        with self._lock:
            if self._closed:
                raise NodeError("the model is closed")
            groups = self._groups(self._split(texts))
            return apart(lambda: [vector for group in groups for vector in self._together(group)])

    def _split(self, texts: Sequence[str]) -> list[list[int]]:
        split = []
        for text in texts:
            tokens = self._model.tokenize(text, begin=True, special=False)
            if len(tokens) > self.context:
                begins = f"the text that begins with {text[:_SHOWN]!r}"
                raise ConfigError(f"{begins} has {len(tokens)} tokens, and this model reads {self.context} at most")
            if not tokens:
                raise ConfigError("a text is empty")
            split.append(tokens)
        return split

    def _groups(self, split: list[list[int]]) -> Iterator[list[list[int]]]:
        group: list[list[int]] = []
        for tokens in split:
            if len(group) == _TOGETHER or sum(map(len, group)) + len(tokens) > self._batch:
                yield group
                group = []
            group.append(tokens)
        if group:
            yield group

    def _together(self, group: list[list[int]]) -> list[list[float]]:
        memory, at = self._memory, 0
        memory.clear()
        for number, tokens in enumerate(group):
            to = at + len(tokens)
            memory.tokens[at:to] = tokens
            memory.positions[at:to] = range(len(tokens))
            memory.sequences[at:to] = number
            at = to
        memory.outputs[:at] = 1
        result = memory.decode(at) if self._model.decoder else memory.encode(at)
        if result:
            raise NodeError(f"llama.cpp could not evaluate the texts (code {result})")
        return [_unit(memory.embedding(number)) for number in range(len(group))]

    def close(self) -> None:
        """Free the memory. Twice is fine."""
        with self._lock:
            self._closed = True
            self._memory.close()


def _unit(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> list[float]:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or not length:
        raise ModelUnusable("the model computed no vector (NaN): its file is damaged")
    return [float(value) for value in vector / length]
