"""The nodes that ask ONNX models: what they send, what they make of the answer. The model's side is tests/ai/host."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Inference, ModelFacts, Node, NodeError
from appliance.nodes import _media
from appliance.nodes.audio_tags import AudioTags
from appliance.nodes.detect_objects import DetectObjects
from appliance.nodes.onnx import Onnx
from tests.support.context import FakeContext, run_node

OBJECTS = [
    {"label": "dog", "score": 0.9, "box": [1, 2, 3, 4]},
    {"label": "cat", "score": 0.8, "box": [1, 2, 3, 4]},
    {"label": "dog", "score": 0.7, "box": [9, 2, 3, 4]},
]


class Oracle:
    """Models that answer what they were told to, and keep what they were asked."""

    def __init__(self, outputs: dict[str, Any], task: str = "", fault: ConfigError | None = None) -> None:
        self.outputs = outputs
        self.task = task
        self.fault = fault
        self.asked: list[tuple[str, dict[str, Any], dict[str, Any], float]] = []

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> Inference:
        self.asked.append((model, dict(inputs), dict(options or {}), timeout))
        if self.fault is not None:
            raise self.fault
        return Inference(outputs=self.outputs, task="t", model=model, provider="local", seconds=0.0012345678)

    async def facts(self, model: str = "") -> ModelFacts:
        return ModelFacts(name=model, provider="local", task=self.task)


def asked(
    node: Node[Any], config: dict[str, Any], payload: Any, outputs: dict[str, Any], root: Path | None = None
) -> tuple[Any, Oracle, FakeContext]:
    """Run a node with ``payload["blob"]``, if there is one, stored as a blob."""
    oracle = Oracle(outputs)
    ctx = FakeContext(root=root, models=oracle)  # type: ignore[arg-type]  # the methods that these nodes use
    payload = {name: ctx.blobs.put(value) if isinstance(value, bytes) else value for name, value in payload.items()}
    return run_node(node, config, payload, ctx), oracle, ctx


def test_objects_are_counted_and_a_drawn_picture_is_a_blob() -> None:
    outputs = {"objects": OBJECTS, "width": 10, "height": 10, "picture": b"jpeg"}
    config = {"model": "yolo", "draw": True, "threshold": 0.4, "labels": ["dog", "cat"], "timeout": "5s"}
    result, oracle, ctx = asked(DetectObjects(), config, {"image": b"png"}, outputs)
    assert (result["count"], result["counts"], result["objects"]) == (3, {"dog": 2, "cat": 1}, OBJECTS)
    assert ctx.blobs.get(result["picture"]) == b"jpeg"
    assert result["picture"]["type"] == "image/jpeg"
    options = {"top": 100, "labels": ["dog", "cat"], "draw": True, "threshold": 0.4}
    assert oracle.asked == [("yolo", {"image": b"png"}, options, 5.0)]


def test_a_picture_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "door.jpg").write_bytes(b"jpeg")
    outputs = {"objects": [], "width": 1, "height": 1}
    result, oracle, _ = asked(DetectObjects(), {"model": "m", "image": "'door.jpg'"}, {}, outputs, tmp_path)
    assert (result["count"], result["counts"]) == (0, {})
    assert oracle.asked[0][1] == {"image": b"jpeg"}


@pytest.mark.parametrize(
    ("payload", "error", "says"),
    [
        ({}, ConfigError, "neither a reference to a blob nor a path, but nothing"),
        ({"image": 7}, ConfigError, "but a number"),
        ({"image": ""}, ConfigError, "but an empty text"),
        ({"image": "gone.jpg"}, NodeError, "'gone.jpg' cannot be read: No such file"),
        ({"image": "folder"}, NodeError, "'folder' is not a file that can be read"),
        ({"image": "../../etc/passwd"}, ConfigError, "outside"),
    ],
)
def test_what_is_no_picture_is_said(tmp_path: Path, payload: Any, error: type[Exception], says: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=says):
        asked(DetectObjects(), {"model": "m"}, payload, {}, tmp_path)


def test_a_picture_may_be_what_a_webhook_was_sent() -> None:
    sent = {"base64": base64.b64encode(b"jpeg").decode(), "type": "image/jpeg"}
    outputs = {"objects": [], "width": 1, "height": 1}
    _, oracle, _ = asked(DetectObjects(), {"model": "m", "image": "payload"}, sent, outputs)
    assert oracle.asked[0][1] == {"image": b"jpeg"}
    _, oracle, _ = asked(Onnx(), {"model": "m", "inputs": {"image": sent}}, {}, outputs)
    assert oracle.asked[0][1] == {"image": b"jpeg"}
    with pytest.raises(ConfigError, match="image: what is under `base64` is not base64"):
        asked(DetectObjects(), {"model": "m", "image": "payload"}, {"base64": "?"}, outputs)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("classify", "'m' is for the task classify; this wants one for detect_objects"),
        ("onnx", "'m' names no task in a model.json; this wants one for detect_objects"),
        ("detect_objects", "this model does not know person"),
        ("", "this model does not know person"),
    ],
)
def test_a_model_for_something_else_is_named_as_such(task: str, says: str) -> None:
    oracle = Oracle({}, task, ConfigError("labels: this model does not know person"))
    ctx = FakeContext(models=oracle)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says):
        run_node(DetectObjects(), {"model": "m"}, {"image": ctx.blobs.put(b"png")}, ctx)


def test_a_pipe_does_not_hold_the_step_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NodeError, match="'pipe' is not a file that can be read"):
        asked(AudioTags(), {"model": "m", "audio": "'pipe'"}, {}, {}, tmp_path)


def test_a_sound_is_tagged() -> None:
    outputs = {"tags": [{"label": "dog", "score": 0.9, "at": 1.5}], "seconds": 3.0}
    result, oracle, _ = asked(AudioTags(), {"model": "yamnet", "most": 3}, {"audio": b"RIFF"}, outputs)
    assert result == outputs
    assert oracle.asked == [("yamnet", {"audio": b"RIFF"}, {"top": 3, "threshold": 0.1}, 120.0)]


def test_any_model_gets_numbers_and_the_bytes_of_blobs() -> None:
    outputs = {"y": [[1.0]], "picture": b"jpeg"}
    oracle = Oracle(outputs)
    ctx = FakeContext(models=oracle)  # type: ignore[arg-type]
    config = {"model": "m", "inputs": {"x": [[1, 2]], "image": ctx.blobs.put(b"png")}, "options": {"top": 1}}
    result = run_node(Onnx(), config, None, ctx)
    assert oracle.asked == [("m", {"x": [[1, 2]], "image": b"png"}, {"top": 1}, 60.0)]
    assert result["outputs"]["y"] == [[1.0]]
    assert result["seconds"] == 0.001235
    assert ctx.blobs.get(result["outputs"]["picture"]) == b"jpeg"
    with pytest.raises(ConfigError, match="at least one"):
        run_node(Onnx(), {"model": "m", "inputs": {}}, None, ctx)
    with pytest.raises(ConfigError, match=r"inputs.image: has to be a reference to a blob"):
        run_node(Onnx(), {"model": "m", "inputs": {"image": "door.jpg"}}, None, ctx)


def test_what_is_too_large_does_not_leave_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_media, "LARGEST", 3)
    with pytest.raises(NodeError, match="more than 3 bytes"):
        asked(DetectObjects(), {"model": "m"}, {"image": b"four"}, {})
