"""What a model is for: each task turns a caller's inputs into a graph's, and the graph's outputs into answers.

Every ``run`` is on the model's own thread. ``options`` are the caller's; one that a task does not know is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct

from appliance.ai.host.errors import TooLarge
from appliance.ai.host.onnx import boxes, images, manifest, scores, sounds
from appliance.ai.host.onnx.graph import Array, Graph, Stop
from appliance.ai.host.onnx.texts import Reader, normalized, pooled
from appliance.contracts import ConfigError

#: Numbers that a raw run may answer with, and texts that one call may have.
_MOST_NUMBERS = 1_000_000
_MOST_TEXTS = 2048
#: Labels that an error names.
_SHOWN = 20
Share = Annotated[float, Meta(ge=0, le=1)]
S = TypeVar("S", bound=Struct)


class Task(Protocol):
    """One model's work."""

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        """Raises ``ConfigError`` for inputs or options that are wrong."""


class NoOptions(Struct, forbid_unknown_fields=True):
    """A task without options."""


class Best(Struct, forbid_unknown_fields=True):
    """How many classes are told, from which score on."""

    top: Annotated[int, Meta(ge=1, le=1000)] = 5
    threshold: Share = 0.0


class Embed:
    """Texts to vectors."""

    def __init__(self, folder: Path, graph: Graph, wanted: manifest.Embed) -> None:
        self._graph = graph
        self._wanted = wanted
        self._output = graph.output(wanted.output).name
        self.reader = Reader(folder, wanted.text)

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        _options(NoOptions, options)
        given = _only(inputs, "text")
        texts = [given] if isinstance(given, str) else given
        return {"vectors": self.vectors(_texts(texts), stop)}

    def vectors(self, texts: Sequence[str], stop: Stop) -> list[list[float]]:
        """One vector a text, in order."""
        found: list[list[float]] = [[]] * len(texts)
        for places, feeds in self.reader.batches(texts, self._graph):
            states = self._graph.run(feeds, stop, [self._output])[self._output].astype(np.float32)
            vectors = pooled(states, feeds["attention_mask"], self._wanted.pooling)
            for place, vector in zip(places, normalized(vectors) if self._wanted.normalize else vectors, strict=True):
                found[place] = vector.tolist()
        return found


class Classify:
    """A text or a picture to scores of classes."""

    def __init__(self, folder: Path, graph: Graph, wanted: manifest.Classify) -> None:
        self._graph = graph
        self._wanted = wanted
        self._labels = manifest.labels_of(folder, wanted.labels)
        self._output = graph.output(wanted.output).name
        self._reader = Reader(folder, wanted.text) if wanted.text is not None else None

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        chosen = _options(Best, options)
        rows = self._scores_of(inputs, stop)
        found = [scores.best(row, self._labels, chosen.top, chosen.threshold) for row in rows]
        return {"labels": found if isinstance(inputs.get("text"), list) else found[0]}

    def _scores_of(self, inputs: Mapping[str, Any], stop: Stop) -> list[Array]:
        if self._wanted.image is not None:
            image = images.read(_only(inputs, "image"))
            slot = self._graph.input(self._wanted.image.input)
            return [self._rows({slot.name: images.place(image, self._wanted.image).values}, stop)[0]]
        assert self._reader is not None, "the manifest was checked: text or image"
        given = _only(inputs, "text")
        texts = _texts([given] if isinstance(given, str) else given)
        rows: list[Array] = [np.empty(0)] * len(texts)
        for places, feeds in self._reader.batches(texts, self._graph):
            for place, row in zip(places, self._rows(feeds, stop), strict=True):
                rows[place] = row
        return rows

    def _rows(self, feeds: Mapping[str, Array], stop: Stop) -> Array:
        found = self._graph.run(feeds, stop, [self._output])[self._output]
        return scores.activated(found.reshape(len(found), -1), self._wanted.activation)


class DetectOptions(Struct, forbid_unknown_fields=True):
    """Which objects are told. ``threshold`` and ``overlap`` left out: those of the model."""

    threshold: Share | None = None
    overlap: Share | None = None
    top: Annotated[int, Meta(ge=1, le=1000)] = 100
    labels: list[str] = []
    draw: bool = False


class Detect:
    """A picture to boxes: left, top, width, height in pixels of the picture as it is seen (upright)."""

    def __init__(self, folder: Path, graph: Graph, wanted: manifest.Detect) -> None:
        self._graph = graph
        self._wanted = wanted
        self._labels = manifest.labels_of(folder, wanted.labels)
        self._input = graph.input(wanted.image.input).name
        self._output = graph.output(wanted.output).name
        others = [slot.name for slot in graph.outputs if slot.name != self._output]
        self._boxes = graph.output(wanted.boxes or others[0] if others else wanted.boxes).name

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        chosen = _options(DetectOptions, options)
        if unknown := [label for label in chosen.labels if self._labels and label not in self._labels]:
            known = ", ".join(self._labels[:_SHOWN]) + (" …" if len(self._labels) > _SHOWN else "")
            raise ConfigError(f"labels: this model does not know {', '.join(unknown)}; it knows {known}")
        image = images.read(_only(inputs, "image"))
        placed = images.place(image, self._wanted.image)
        found = self._found(self._graph.run({self._input: placed.values}, stop))
        found = found.where(found.scores >= (self._wanted.threshold if chosen.threshold is None else chosen.threshold))
        if chosen.labels:
            names = [scores.name_of(self._labels, int(number)) for number in found.classes]
            found = found.where(np.asarray([name in chosen.labels for name in names], bool))
        if self._wanted.format == "yolo":
            found = boxes.suppressed(found, self._wanted.overlap if chosen.overlap is None else chosen.overlap)
        found = found.where(np.argsort(-found.scores, kind="stable")[: chosen.top])
        objects = [one for one in self._told(found, placed, image.width, image.height) if min(one["box"][2:]) > 0]
        answer: dict[str, Any] = {"objects": objects, "width": image.width, "height": image.height}
        if chosen.draw:
            answer["picture"] = images.draw(image, objects)
        return answer

    def _found(self, outputs: Mapping[str, Array]) -> boxes.Boxes:
        wanted, rows, count = self._wanted, outputs[self._output], len(self._labels)
        if wanted.format == "detr":
            return boxes.detr(rows, outputs[self._boxes], count, wanted.image.size, wanted.activation)
        if wanted.format == "ready":
            return boxes.ready(rows, wanted.image.size, wanted.unit)
        how = {"objectness": wanted.objectness, "unit": wanted.unit}
        return boxes.yolo(rows, count, wanted.image.size, **how, activation=wanted.activation)

    def _told(self, found: boxes.Boxes, placed: images.Placed, width: int, height: int) -> list[dict[str, Any]]:
        """In pixels of the picture, cut off at its edges."""
        shift = np.asarray([placed.left, placed.top] * 2)
        scale = np.asarray([placed.scale_x, placed.scale_y] * 2)
        corners = np.clip((found.corners - shift) / scale, 0, [width, height, width, height])
        return [
            {
                "label": scores.name_of(self._labels, int(number)),
                "score": scores.rounded(score),
                "box": [round(float(value), 1) for value in (left, top, right - left, bottom - top)],
            }
            for (left, top, right, bottom), score, number in zip(corners, found.scores, found.classes, strict=True)
        ]


class Tags:
    """A sound to what is heard in it; ``at`` is the second at which the window begins that has most of it."""

    def __init__(self, folder: Path, graph: Graph, wanted: manifest.Tags) -> None:
        self._graph = graph
        self._wanted = wanted
        self._labels = manifest.labels_of(folder, wanted.labels)
        self._input = graph.input(wanted.audio.input)
        self._output = graph.output(wanted.output).name

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        chosen = _options(Best, options)
        sound = sounds.read(_only(inputs, "audio"))
        audio = self._wanted.audio
        rows, begins = [], []
        for begin, samples in sounds.windows(sounds.at_rate(sound, audio.rate), audio):
            feeds = {self._input.name: sounds.features(samples, audio, len(self._input.shape))}
            found = self._graph.run(feeds, stop, [self._output])[self._output]
            # Some graphs give a row for each part of a second: what is heard in any of them is heard.
            table = scores.activated(found.reshape(-1, found.shape[-1]), self._wanted.activation)
            rows.append(table.max(axis=0))
            begins.append(begin)
        whole = np.stack(rows)
        tags = scores.best(whole.max(axis=0), self._labels, chosen.top, chosen.threshold)
        order = np.argsort(-whole.max(axis=0), kind="stable")
        for tag, number in zip(tags, order, strict=False):
            tag["at"] = round(begins[int(whole[:, number].argmax())], 3)
        return {"tags": tags, "seconds": round(len(sound.samples) / sound.rate, 3)}


class Run:
    """Any graph: numbers in, numbers out; a declared picture, text or sound is prepared."""

    def __init__(self, folder: Path, graph: Graph, wanted: manifest.Run) -> None:
        self._graph = graph
        self._wanted = wanted
        self._reader = Reader(folder, wanted.text) if wanted.text is not None else None

    def run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        _options(NoOptions, options)
        feeds = self._prepared(inputs)
        for slot in self._graph.inputs:
            if slot.name in inputs and slot.name not in feeds:
                feeds[slot.name] = _numbers(inputs[slot.name], slot.name)
        names = [slot.name for slot in self._graph.inputs]
        if missing := [name for name in names if name not in feeds]:
            raise ConfigError(f"inputs: {', '.join(missing)} missing; the graph takes {self._takes()}")
        found = self._graph.run(feeds, stop)
        if (count := sum(value.size for value in found.values())) > _MOST_NUMBERS:
            raise TooLarge(f"the model answers with {count:,} numbers, and {_MOST_NUMBERS:,} are the most")
        return {name: value.tolist() for name, value in found.items()}

    def _prepared(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        feeds: dict[str, Array] = {}
        known = {slot.name for slot in self._graph.inputs}
        if (wanted := self._wanted.image) is not None and "image" in inputs:
            feeds[self._graph.input(wanted.input).name] = images.place(images.read(inputs["image"]), wanted).values
            known.add("image")
        if self._reader is not None and "text" in inputs:
            ((_, tokens),) = self._reader.batches(_texts([inputs["text"]]), self._graph)
            feeds |= tokens
            known.add("text")
        if (sound := self._wanted.audio) is not None and "audio" in inputs:
            slot = self._graph.input(sound.input)
            samples = sounds.at_rate(sounds.read(inputs["audio"]), sound.rate)
            feeds[slot.name] = sounds.features(sounds.windows(samples, sound)[0][1], sound, len(slot.shape))
            known.add("audio")
        if unknown := [name for name in inputs if name not in known]:
            raise ConfigError(f"inputs: the model has no {', '.join(unknown)}; the graph takes {self._takes()}")
        return feeds

    def _takes(self) -> str:
        return ", ".join(
            f"{slot.name} [{', '.join('any' if size is None else str(size) for size in slot.shape)}]"
            for slot in self._graph.inputs
        )


def task_of(folder: Path, graph: Graph, wanted: manifest.Manifest) -> Task:
    """The task of a manifest. Raises ``ModelUnusable`` for one that does not fit the graph."""
    kinds: dict[type[Any], Any] = {
        manifest.Embed: Embed,
        manifest.Classify: Classify,
        manifest.Detect: Detect,
        manifest.Tags: Tags,
        manifest.Run: Run,
    }
    made: Task = kinds[type(wanted)](folder, graph, wanted)
    return made


def _options(kind: type[S], given: Mapping[str, Any]) -> S:
    known = kind.__struct_fields__
    if unknown := [name for name in given if name not in known]:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ConfigError(f"options: this model has no {', '.join(unknown)}; {takes}")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"options: {exc}") from None


def _only(inputs: Mapping[str, Any], name: str) -> Any:
    if inputs.keys() != {name}:
        raise ConfigError(f"inputs: this model takes `{name}` and nothing else, not {', '.join(inputs) or 'nothing'}")
    return inputs[name]


def _texts(given: Any) -> list[str]:
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in given):
        raise ConfigError("text: a text, or a list of texts")
    if not 0 < len(given) <= _MOST_TEXTS:
        raise ConfigError(f"text: 1 to {_MOST_TEXTS} texts at once")
    return list(given)


def _numbers(given: Any, name: str) -> Array:
    try:
        found = np.asarray(given)
        if found.dtype.kind in "biuf":
            return found
    except (ValueError, TypeError, OverflowError):
        pass
    raise ConfigError(f"inputs.{name}: numbers, or lists of lists of the same length")
