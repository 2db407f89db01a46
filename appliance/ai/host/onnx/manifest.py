"""What a model's ``model.json`` may say: its task, what is done to inputs before the graph and to outputs behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.files import MANIFEST

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Activation = Literal["softmax", "sigmoid", "none"]
_LARGEST = 4_000_000
_MOST_LABELS = 100_000


class Image(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A picture as the graph wants it: ``size`` is width and height, values are ``(pixel * scale - mean) / std``.

    ``fit`` stretches the picture, crops what is too much, or keeps it whole with bars of grey ``fill`` around it.
    """

    size: tuple[Annotated[int, Meta(ge=1, le=4096)], Annotated[int, Meta(ge=1, le=4096)]]
    fit: Literal["stretch", "crop", "letterbox"] = "stretch"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    fill: Annotated[int, Meta(ge=0, le=255)] = 114
    input: str = ""


class Text(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text cut into at most ``max_tokens`` tokens by a file of the tokenizers library; ``prefix`` goes before it."""

    tokenizer: Name = "tokenizer.json"
    max_tokens: Annotated[int, Meta(ge=2, le=32_768)] = 512
    prefix: str = ""


class Mel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A logarithmic mel spectrogram: ``window`` and ``hop`` in samples, frequencies in Hz.

    ``scale`` is the formula of the bands: HTK's 2595 log10(1 + f/700), or that of Slaney's Auditory Toolbox (linear
    below 1 kHz). ``log`` is that of max(x, ``floor``).
    """

    bands: Annotated[int, Meta(ge=1, le=512)] = 64
    fft: Annotated[int, Meta(ge=16, le=16_384)] = 512
    window: Annotated[int, Meta(ge=16, le=16_384)] = 400
    hop: Annotated[int, Meta(ge=1, le=16_384)] = 160
    low: Annotated[float, Meta(ge=0)] = 0.0
    high: Annotated[float, Meta(ge=0)] = 0.0
    scale: Literal["htk", "slaney"] = "htk"
    power: Literal[1, 2] = 2
    log: Literal["ln", "log10", "db", "none"] = "ln"
    floor: Annotated[float, Meta(gt=0)] = 1e-6
    mean: float = 0.0
    std: float = 1.0
    order: Literal["frames-bands", "bands-frames"] = "frames-bands"

    def __post_init__(self) -> None:
        if self.window > self.fft:
            raise ValueError("`window` must not be longer than `fft`")


class Audio(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A sound at ``rate`` samples a second, in windows of ``seconds`` (0: as a whole), as samples or as ``mel``."""

    rate: Annotated[int, Meta(ge=1000, le=96_000)] = 16_000
    seconds: Annotated[float, Meta(ge=0, le=60)] = 0.0
    mel: Mel | None = None
    input: str = ""


class Labels(Struct, frozen=True, kw_only=True):
    """Names of classes, or the file in the model's folder that has them; and how the graph's numbers become scores."""

    labels: list[str] | Name = []
    activation: Activation = "softmax"
    output: str = ""


class Embed(Struct, frozen=True, kw_only=True, tag="embed", tag_field="task"):
    """Vectors of texts. ``pooling`` is ``none`` where the graph gives one vector a text by itself."""

    text: Text = Text()
    pooling: Literal["mean", "cls", "last", "none"] = "mean"
    normalize: bool = True
    output: str = ""


class Classify(Labels, frozen=True, kw_only=True, tag="classify", tag_field="task"):
    """Scores of classes, of a text or of a picture."""

    text: Text | None = None
    image: Image | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise ValueError("a classifier has either `text` or `image`")


class Detect(Labels, frozen=True, kw_only=True, tag="detect_objects", tag_field="task"):
    """Objects in a picture, as boxes.

    ``format``: ``yolo`` is one row (or column) a candidate: centre, size, with ``objectness`` its score, then a score a
    class, in pixels of the graph's picture (with ``unit`` in parts of it). ``detr`` are two outputs, ``output`` with
    scores (the last class means nothing is there, if there is one more than labels) and ``boxes``, in parts of the
    picture. ``ready`` is a row of left, top, right, bottom, score, class for each object.
    """

    image: Image
    format: Literal["yolo", "detr", "ready"] = "yolo"
    activation: Activation = "none"
    objectness: bool = False
    unit: bool = False
    boxes: str = ""
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.25
    overlap: Annotated[float, Meta(ge=0, le=1)] = 0.45


class Tags(Labels, frozen=True, kw_only=True, tag="tags", tag_field="task"):
    """What is heard in a sound."""

    audio: Audio = Audio()
    activation: Activation = "sigmoid"


class Run(Struct, frozen=True, kw_only=True, tag="run", tag_field="task"):
    """Any graph: inputs are numbers by their names, but for a picture, text or sound that is declared here."""

    image: Image | None = None
    text: Text | None = None
    audio: Audio | None = None


Manifest = Embed | Classify | Detect | Tags | Run
_TASKS = [str(kind.__struct_config__.tag) for kind in (Embed, Classify, Detect, Tags, Run)]


def read(folder: Path) -> Manifest:
    """The manifest of a model; one without is any graph. Raises ``ModelUnusable`` that names the field."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except FileNotFoundError:
        return Run()
    except OSError as exc:
        raise ModelUnusable(f"{path.name} of {folder.name!r} cannot be read: {exc.strerror}") from None
    try:
        found: Manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as exc:
        tasks = f"; the tasks are {', '.join(_TASKS)}" if str(exc).endswith("`$.task`") else ""
        raise ModelUnusable(f"{path.name} of {folder.name!r}: {exc}{tasks}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as exc:
        raise ModelUnusable(f"{path.name} of {folder.name!r} is not JSON: {exc}") from None
    return found


def labels_of(folder: Path, given: list[str] | str) -> list[str]:
    """Names of classes by their number: as they are given, or from a file (lines, or JSON as `{"0": "cat"}`)."""
    if not isinstance(given, str):
        return given
    try:
        text = (folder / given).read_bytes()[:_LARGEST].decode("utf-8", "replace")
        return _listed(text)[:_MOST_LABELS]
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise ModelUnusable(f"the labels of {folder.name!r} in {given!r} cannot be read: {why}") from None


def _listed(text: str) -> list[str]:
    if not re.match(r"\s*[\[{]", text):
        return [line.strip() for line in text.splitlines() if line.strip()]
    found = msgspec.json.decode(text, type=list[str] | dict[str, str])
    if isinstance(found, list):
        return found
    numbered = {int(number): name for number, name in found.items()}
    return [numbered.get(number, str(number)) for number in range(min(max(numbered, default=-1) + 1, _MOST_LABELS))]
