"""Boxes out of the numbers of an object detector, in the three forms in which detectors give them. Numbers only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.onnx.graph import Array
from appliance.ai.host.onnx.scores import activated

#: Candidates that go into the suppression of overlaps, which takes their square in time.
_MOST = 3000


class Boxes(NamedTuple):
    """``corners`` are rows of left, top, right, bottom, in pixels of the graph's picture; ``classes`` are numbers."""

    corners: Array
    scores: Array
    classes: Array

    def where(self, chosen: Array) -> Boxes:
        return Boxes(self.corners[chosen], self.scores[chosen], self.classes[chosen])


def yolo(rows: Array, labels: int, size: tuple[int, int], *, objectness: bool, unit: bool, activation: str) -> Boxes:
    """Rows of centre, size, perhaps objectness, then classes; given as columns too. ``labels`` 0: as many as there are.

    Raises ``ModelUnusable`` if the numbers have another shape.
    """
    rows = _matrix(rows)
    first = 5 if objectness else 4
    if labels and rows.shape[1] != first + labels and rows.shape[0] == first + labels:
        rows = rows.T
    elif not labels and rows.shape[0] < rows.shape[1] and rows.shape[0] > first:
        rows = rows.T  # fewer numbers a candidate than candidates
    if rows.shape[1] <= first or (labels and rows.shape[1] != first + labels):
        raise ModelUnusable(f"the graph gives {rows.shape[1]} numbers a box, but {first + (labels or 1)} are declared")
    scores = activated(rows[:, first:], activation)
    if objectness:
        scores = scores * activated(rows[:, 4:5], activation if activation == "sigmoid" else "none")
    return _best(_corners(rows[:, :4], size if unit else (1, 1)), scores)


def detr(scores: Array, boxes: Array, labels: int, size: tuple[int, int], activation: str) -> Boxes:
    """A row of scores and a row of centre and size (in parts of the picture) for each query."""
    scores = activated(_matrix(scores), activation)
    boxes = _matrix(boxes)
    if boxes.shape != (len(scores), 4):
        raise ModelUnusable(f"the graph gives {len(scores)} scores and boxes of shape {list(boxes.shape)}")
    if labels and scores.shape[1] == labels + 1:
        scores = scores[:, :labels]  # the last one says that nothing is there
    return _best(_corners(boxes, size), scores)


def ready(rows: Array, size: tuple[int, int], unit: bool) -> Boxes:
    """Rows of left, top, right, bottom, score, class."""
    rows = _matrix(rows)
    if rows.shape[1] != 6:
        raise ModelUnusable(f"the graph gives {rows.shape[1]} numbers a box, not 6")
    scale = np.asarray([*size, *size] if unit else [1, 1, 1, 1], np.float32)
    return Boxes(rows[:, :4] * scale, rows[:, 4], rows[:, 5].astype(np.int64))


def suppressed(found: Boxes, overlap: float) -> Boxes:
    """The best of those that overlap within a class (greedy non-maximum suppression), the best first."""
    found = found.where(np.argsort(-found.scores, kind="stable")[:_MOST])
    kept: list[int] = []
    left = np.ones(len(found.scores), bool)
    for index in range(len(found.scores)):
        if not left[index]:
            continue
        kept.append(index)
        same = found.classes == found.classes[index]
        left &= ~(same & (_intersection_over_union(found.corners[index], found.corners) > overlap))
    return found.where(np.asarray(kept, np.int64))


def _intersection_over_union(one: Array, others: Array) -> Array:
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(np.maximum(others[:, 2:] - others[:, :2], 0), axis=1)
    own = np.prod(np.maximum(one[2:] - one[:2], 0))
    return np.asarray(common / np.maximum(own + areas - common, 1e-9))


def _matrix(values: Array) -> Array:
    """Without the batch's leading 1."""
    values = np.asarray(values, np.float32)
    while values.ndim > 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise ModelUnusable(f"the graph gives numbers of shape {list(values.shape)}, not a row a box")
    return values


def _corners(boxes: Array, scale: tuple[int, int]) -> Array:
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.asarray(np.concatenate([centre - half, centre + half], axis=1) * np.asarray([*scale, *scale]))


def _best(corners: Array, scores: Array) -> Boxes:
    classes = scores.argmax(axis=1)
    return Boxes(corners, scores[np.arange(len(scores)), classes], classes)
