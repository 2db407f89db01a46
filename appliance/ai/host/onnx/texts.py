"""Texts for a graph: tokens by a file of the tokenizers library, in batches of about equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.onnx.graph import Array, Graph
from appliance.ai.host.onnx.manifest import Text

#: Texts in one run of the graph. More is not faster on a few cores, and takes more memory.
_BATCH = 8
#: Characters of a text that are looked at for each token that it may have.
_WIDEST = 40


class Reader:
    """Cuts texts into tokens as a model's manifest says."""

    def __init__(self, folder: Path, text: Text) -> None:
        path = folder / text.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:  # it raises Exception itself
            raise ModelUnusable(f"{path.name} of {folder.name!r} is no tokenizer: {exc}") from None
        padding = self._tokenizer.padding or {}
        self._pad = int(padding.get("pad_id", 0))
        # Some files pad every text to the same length, which costs the more the shorter it is.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(text.max_tokens)
        self._prefix = text.prefix
        self._longest = text.max_tokens * _WIDEST

    def count(self, text: str) -> int:
        """Tokens that the graph would see."""
        return len(self._encode([text])[0].ids)

    def batches(self, texts: Sequence[str], graph: Graph) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """Inputs for the graph, with the places of their texts; texts of about the same length go together."""
        encoded = self._encode(texts)
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index].ids))
        for at in range(0, len(order), _BATCH):
            places = order[at : at + _BATCH]
            yield places, self._feeds([encoded[place] for place in places], graph)

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        # A megabyte of text would be cut into tokens as a whole only to be cut off then.
        return list(self._tokenizer.encode_batch_fast([self._prefix + text[: self._longest] for text in texts]))

    def _feeds(self, encoded: list[Any], graph: Graph) -> dict[str, Array]:
        length = max(1, *(len(one.ids) for one in encoded))
        ids = np.full((len(encoded), length), self._pad, np.int64)
        mask = np.zeros((len(encoded), length), np.int64)
        kinds = np.zeros((len(encoded), length), np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
            kinds[row, : len(one.ids)] = one.type_ids
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        known["position_ids"] = np.broadcast_to(np.arange(length), ids.shape)
        feeds = {slot.name: known[slot.name] for slot in graph.inputs if slot.name in known}
        if not feeds:  # a graph with names of its own: its first input is the tokens
            feeds[graph.inputs[0].name] = ids
        return {**feeds, "attention_mask": mask}


def pooled(states: Array, mask: Array, pooling: str) -> Array:
    """One vector a text from one a token (texts, tokens, width): their mean, or that of the first or last token."""
    if states.ndim == 2 or pooling == "none":
        return states.reshape(len(states), -1)
    if pooling == "cls":
        return np.asarray(states[:, 0])
    if pooling == "last":
        return np.asarray(states[np.arange(len(states)), np.maximum(mask.sum(1) - 1, 0)])
    weights = mask[:, :, None].astype(states.dtype)
    return np.asarray((states * weights).sum(1) / np.maximum(weights.sum(1), 1))


def normalized(vectors: Array) -> Array:
    """Vectors of length 1; one without a direction stays as it is."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
