"""Scores out of a graph's last numbers, and the best of them with their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from appliance.ai.host.onnx.graph import Array


def activated(values: Array, activation: str) -> Array:
    """Scores from 0 to 1 along the last axis: of classes that exclude each other (softmax), or of each by itself."""
    values = np.asarray(values, np.float32)
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))
    return values


def name_of(labels: Sequence[str], number: int) -> str:
    """The name of a class; its number where it has none."""
    return labels[number] if 0 <= number < len(labels) else str(number)


def best(scores: Array, labels: Sequence[str], top: int, threshold: float) -> list[dict[str, Any]]:
    """The best classes with their scores, the best first."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [
        {"label": name_of(labels, int(index)), "score": rounded(scores[index])}
        for index in order
        if scores[index] >= threshold
    ]


def rounded(score: Any) -> float:
    """Four digits say all that a score means."""
    return round(float(score), 4)
