"""Tiny real ONNX models, made here by the onnx package: each does by rule what a trained one does by weights.

folder = colours(tmp_path)        # classify a picture: red, green or blue
folder = lamps(tmp_path)          # detect_objects: bright squares on dark ground
folder = tones(tmp_path)          # tags of a sound: low or high
folder = words(tmp_path)          # embed: texts with the same words have the same vector
folder = moods(tmp_path)          # classify a text: happy or sad
folder = adder(tmp_path)          # any graph: a + b
"""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers

#: The newest that every onnxruntime we take reads.
_OPSET, _IR = 17, 8
WORDS = ("[PAD]", "[UNK]", "the", "door", "is", "open", "shut", "rain", "sun", "happy", "sad", "good", "bad")
SIDE = 64
GRID = 8


def save(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, list[Any]],
    weights: dict[str, Any],
    manifest: dict[str, Any] | None,
) -> Path:
    """A model folder with a graph that onnx's own checker accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    if manifest is not None:
        (folder / "model.json").write_text(json.dumps(manifest))
    return folder


def colours(parent: Path, **image: Any) -> Path:
    """The mean of each channel of a 8x8 picture, told apart sharply."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["means", "sharp"], ["logits"]),
    ]
    manifest = {
        "task": "classify",
        "image": {"size": [8, 8], **image},
        "labels": ["red", "green", "blue"],
    }
    inputs = {"pixels": (TensorProto.FLOAT, [1, 3, 8, 8])}
    return save(parent / "colours", nodes, inputs, {"logits": [1, 3]}, {"sharp": np.float32(10)}, manifest)


def lamps(parent: Path, form: str = "yolo", **more: Any) -> Path:
    """A 64x64 picture in 8x8 cells: each gives a box of its own size around its middle, scored by its brightness.

    In the form ``yolo`` (a column a candidate, as YOLOv8), ``detr`` (two outputs, in parts of 1) or ``ready``.
    """
    middles = (np.arange(GRID) + 0.5) * (SIDE / GRID)
    x, y = (axis.ravel() for axis in np.meshgrid(middles, middles))
    # Bright squares are two cells wide and high, so that each is found four times.
    centred = np.stack([x, y, np.full(64, 16.0), np.full(64, 16.0)]).astype(np.float32)
    pooled = [
        helper.make_node("ReduceMean", ["pixels"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["cells", "flat"], ["bright"]),
    ]
    manifest: dict[str, Any] = {
        "task": "detect_objects",
        "image": {"size": [SIDE, SIDE], "fit": "letterbox", "fill": 0},
        "format": form,
        "labels": ["lamp"],
        **more,
    }
    inputs = {"pixels": (TensorProto.FLOAT, [1, 3, SIDE, SIDE])}
    if form == "yolo":
        nodes = [*pooled, helper.make_node("Concat", ["boxes", "bright"], ["found"], axis=1)]
        weights = {"flat": np.asarray([1, 1, 64]), "boxes": centred[None]}
        return save(parent / "lamps", nodes, inputs, {"found": [1, 5, 64]}, weights, manifest)
    if form == "detr":
        nodes = [
            *pooled,
            helper.make_node("Sub", ["one", "bright"], ["dark"]),
            helper.make_node("Concat", ["bright", "dark"], ["scores"], axis=2),
            helper.make_node("Identity", ["fixed"], ["boxes"]),
        ]
        weights = {"flat": np.asarray([1, 64, 1]), "one": np.float32(1), "fixed": (centred.T / SIDE)[None]}
        manifest["output"] = "scores"
        return save(parent / "lamps", nodes, inputs, {"scores": [1, 64, 2], "boxes": [1, 64, 4]}, weights, manifest)
    corners = np.concatenate([centred[:2] - 8, centred[:2] + 8]).T
    nodes = [*pooled, helper.make_node("Concat", ["corners", "bright", "class"], ["found"], axis=2)]
    weights = {
        "flat": np.asarray([1, 64, 1]),
        "corners": corners[None].astype(np.float32),
        "class": np.zeros((1, 64, 1), np.float32),
    }
    return save(parent / "lamps", nodes, inputs, {"found": [1, 64, 6]}, weights, manifest)


def tones(parent: Path, **audio: Any) -> Path:
    """The mean of a mel spectrogram's lower and upper half."""
    halves = np.zeros((32, 2), np.float32)
    halves[:16, 0] = halves[16:, 1] = 1 / 16
    nodes = [
        helper.make_node("ReduceMean", ["mels"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "halves"], ["logits"]),
    ]
    manifest = {
        "task": "tags",
        "audio": {"rate": 8000, "seconds": 0.5, "mel": {"bands": 32, "fft": 512, "window": 400, "hop": 160}, **audio},
        "labels": ["low", "high"],
        "activation": "softmax",
    }
    inputs = {"mels": (TensorProto.FLOAT, [1, None, 32])}
    return save(parent / "tones", nodes, inputs, {"logits": [1, 2]}, {"halves": halves}, manifest)


def words(parent: Path, width: int = 16, **more: Any) -> Path:
    """A vector a word, pooled by the host."""
    table = np.random.default_rng(7).standard_normal((len(WORDS), width)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"], axis=0)]
    folder = parent / "words"
    inputs = {"input_ids": (TensorProto.INT64, [None, None])}
    save(folder, nodes, inputs, {"last_hidden_state": [None, None, width]}, {"table": table}, {"task": "embed", **more})
    tokenizer(folder)
    return folder


def moods(parent: Path) -> Path:
    """The sum of what each word says for ``happy`` and ``sad``."""
    table = np.zeros((len(WORDS), 2), np.float32)
    for word, mood in {"happy": 0, "sun": 0, "good": 0, "sad": 1, "rain": 1, "bad": 1}.items():
        table[WORDS.index(word), mood] = 4
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"], axis=0),
        helper.make_node("ReduceSum", ["each", "axis"], ["logits"], keepdims=0),
    ]
    folder = parent / "moods"
    inputs = {"input_ids": (TensorProto.INT64, [None, None])}
    weights = {"table": table, "axis": np.asarray([1])}
    save(
        folder, nodes, inputs, {"logits": [None, 2]}, weights, {"task": "classify", "text": {}, "labels": "labels.txt"}
    )
    (folder / "labels.txt").write_text("happy\nsad\n")
    tokenizer(folder)
    return folder


def adder(parent: Path, manifest: dict[str, Any] | None = None) -> Path:
    """The sum of two matrices of any height."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    inputs = {"a": (TensorProto.FLOAT, [None, 2]), "b": (TensorProto.FLOAT, [None, 2])}
    return save(parent / "adder", nodes, inputs, {"sum": [None, 2]}, {}, manifest)


def endless(parent: Path) -> Path:
    """A loop of so many turns that only a stop ends it: for cancelling in the middle."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "matrix"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64]),
        ],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "matrix")],
    )
    nodes = [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)]
    inputs = {"x": (TensorProto.FLOAT, [64, 64])}
    return save(parent / "endless", nodes, inputs, {"y": [64, 64]}, {"turns": np.int64(10**12)}, None)


def tokenizer(folder: Path) -> None:
    """Words by spaces, padded to a length that nobody wants, as many published files have it."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding(length=128)
    made.save(str(folder / "tokenizer.json"))


# --- what they look at and listen to ---------------------------------------------------------------------


def picture(colour: Any = "red", size: tuple[int, int] = (40, 30), form: str = "PNG", **save_as: Any) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form, **save_as)
    return out.getvalue()


def lamp_picture(size: tuple[int, int], *lamps: tuple[int, int, int, int]) -> bytes:
    """Bright squares (left, top, right, bottom) on black."""
    image = Image.new("RGB", size)
    for lamp in lamps:
        left, top, right, bottom = lamp
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill="white")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def wav(samples: Any, rate: int = 8000, *, bits: int = 16, channels: int = 1, kind: int = 1) -> bytes:
    """A WAV file of values from -1 to 1."""
    values = np.repeat(np.asarray(samples, np.float64), channels)
    if kind == 3:
        body = values.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        body = (values * 127 + 128).astype(np.uint8).tobytes()
    else:
        whole = np.asarray(values * (2 ** (bits - 1) - 1), np.int64)
        body = b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in whole)
    align = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * align, align, bits)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def tone(hertz: float, seconds: float = 1.0, rate: int = 8000) -> Any:
    """A sine."""
    return np.sin(2 * math.pi * hertz * np.arange(int(seconds * rate)) / rate) * 0.8
