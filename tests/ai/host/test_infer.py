"""ONNX models over the host's socket, beside language models; and what docs/onnx.md promises."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.ai.host.onnx import manifest
from tests.support.broker import eventually
from tests.support.modelhost import Link, ModelHost
from tests.support.onnxmodels import adder, colours, endless, lamp_picture, lamps, picture, words
from tests.support.pages import ROOT, fences, tables
from tests.support.tinymodel import tiny_model

PAGE = (ROOT / "docs" / "onnx.md").read_text()


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHost]:
    """Serves ``adder``, ``colours``, ``endless``, ``lamps``, ``words``, and the language model ``tiny``."""
    folder = tmp_path_factory.mktemp("eyes")
    (data := folder / "data").mkdir()
    models: dict[str, Path] = {made.name: made for made in (make(folder) for make in (adder, colours, endless, lamps))}
    with ModelHost(data, models={**models, "words": words(folder), "tiny": tiny_model()}) as made:
        yield made


def test_a_picture_goes_in_and_boxes_come_out_in_json_and_in_msgpack(eyes: ModelHost) -> None:
    image = lamp_picture((64, 64), (16, 16, 24, 24))
    options = {"draw": True, "threshold": 0.6}
    text = {"model": "lamps", "inputs": {"image": {"base64": base64.b64encode(image).decode()}}, "options": options}
    status, found, _ = eyes.ask("/v1/infer", text)
    assert status == 200, found
    assert (found["task"], found["outputs"]["objects"][0]["box"]) == ("detect_objects", [12.0, 12.0, 16.0, 16.0])
    drawn = base64.b64decode(found["outputs"]["picture"]["base64"])
    packed = msgspec.msgpack.encode({"model": "lamps", "inputs": {"image": image}, "options": options})
    status, raw, headers = eyes.ask("/v1/infer", packed, kind="application/msgpack")
    assert (status, headers["content-type"]) == (200, "application/msgpack")
    again = msgspec.msgpack.decode(raw)
    assert again["outputs"]["objects"] == found["outputs"]["objects"]
    assert again["outputs"]["picture"] == drawn


def test_vectors_come_by_the_openai_api(eyes: ModelHost) -> None:
    texts = ["the door is open", "rain"] * 40
    status, found, _ = eyes.ask("/v1/embeddings", {"model": "words", "input": texts})
    assert status == 200, found
    assert len(found["data"]) == 80
    assert found["data"][0]["embedding"] == pytest.approx(found["data"][2]["embedding"], abs=1e-5)
    assert found["usage"]["prompt_tokens"] == 40 * 5
    assert eyes.ask("/v1/tokens", {"model": "words", "input": "the door"})[1]["total"] == 2


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"model": "tiny", "inputs": {}}, 404, "no-model", "is a language model"),
        ({"model": "gone", "inputs": {}}, 404, "no-model", "there are adder, colours, endless, lamps, words"),
        ({"model": "lamps", "inputs": {"image": {"base64": "%%%"}}}, 400, "bad-request", "not base64"),
        ({"model": "lamps", "inputs": {"image": {"base64": ""}}}, 400, "bad-config", "not a picture"),
        ({"model": "lamps", "inputs": {"image": "x"}, "options": {"dance": 1}}, 400, "bad-config", "dance"),
        ({"model": "lamps"}, 400, "bad-request", "inputs"),
        (b"\xff", 400, "bad-request", "not JSON"),
    ],
)
def test_what_is_wrong_is_said(eyes: ModelHost, body: Any, status: int, code: str, says: str) -> None:
    found = eyes.error("/v1/infer", body)
    assert found[:2] == (status, code)
    assert says in found[2]


def test_models_that_cannot_do_it_say_so(eyes: ModelHost) -> None:
    assert eyes.error("/v1/infer", b"\xc1", kind="application/msgpack")[:2] == (400, "bad-request")
    status, code, message = eyes.error("/v1/embeddings", {"model": "lamps", "input": "x"})
    assert (status, code) == (400, "bad-config")
    assert "its task is detect_objects" in message
    chat = {"model": "lamps", "messages": [{"role": "user", "content": "x"}]}
    assert eyes.error("/v1/chat/completions", chat)[:2] == (404, "no-model")


def test_a_caller_that_hangs_up_ends_the_run(eyes: ModelHost) -> None:
    """The graph turns for hours."""

    def works() -> int:
        return next((one["working_for"] for one in eyes.stats()["models"] if one["model"] == "endless"), 0)

    link = Link(eyes.data)
    body = json.dumps({"model": "endless", "inputs": {"x": np.eye(64).tolist()}})
    link.request("POST", "/v1/infer", body, {"Content-Type": "application/json"})
    eventually(lambda: works() == 1, "it turns")
    link.close()
    eventually(lambda: works() == 0, "it has stopped")
    assert eyes.ask("/v1/models/endless/unload", {})[1]["unloaded"], "which waits for the run's thread"


def test_a_language_model_and_others_share_the_bound(tmp_path: Path) -> None:
    """160 MiB hold the language model, or two small graphs, but not all of them: the oldest goes."""
    (data := tmp_path / "data").mkdir()
    models = {"tiny": tiny_model(), "colours": colours(tmp_path), "adder": adder(tmp_path)}
    with ModelHost(data, models=models, memory_mb=160) as host:
        image = {"base64": base64.b64encode(picture()).decode()}
        assert host.ask("/v1/infer", {"model": "colours", "inputs": {"image": image}})[0] == 200
        assert host.ask("/v1/infer", {"model": "adder", "inputs": {"a": [[1, 2]], "b": [[1, 2]]}})[0] == 200
        assert host.loaded() == {"colours", "adder"}
        assert host.chat("tiny", max_tokens=1)
        assert "tiny" in host.loaded()
        assert "colours" not in host.loaded(), "nobody had used it for the longest time"


def test_a_folder_put_there_and_changed_is_seen_at_once(eyes: ModelHost, tmp_path: Path) -> None:
    eyes.put("late", colours(tmp_path))
    body = {"model": "late", "inputs": {"image": {"base64": base64.b64encode(picture()).decode()}}}
    assert eyes.ask("/v1/infer", body)[1]["outputs"]["labels"][0]["label"] == "red"
    described = json.loads((eyes.folder / "late" / "model.json").read_text())
    (eyes.folder / "late" / "model.json").write_text(json.dumps({**described, "labels": ["rot", "grün", "blau"]}))
    assert eyes.ask("/v1/infer", body)[1]["outputs"]["labels"][0]["label"] == "rot"
    (eyes.folder / "late" / "model.json").write_text("{")
    assert eyes.error("/v1/infer", body)[:2] == (422, "model-unusable")


# --- the page ------------------------------------------------------------------------------------------


def test_the_samples_of_the_page_are_manifests() -> None:
    kinds = {
        type(msgspec.json.decode(text, type=manifest.Manifest))
        for info, text in fences(PAGE, "json")
        if info == "json model"
    }
    assert kinds == {manifest.Embed, manifest.Classify, manifest.Detect, manifest.Tags, manifest.Run}


def test_the_page_names_every_field() -> None:
    named = {name.strip(" `") for _, *rows in tables(PAGE) for row in rows for name in row[0].split(",")}
    for kind in (manifest.Embed, manifest.Classify, manifest.Detect, manifest.Text, manifest.Image, manifest.Audio):
        assert {field.name for field in msgspec.structs.fields(kind)} <= named, kind
    for field in msgspec.structs.fields(manifest.Mel):
        assert f"`{field.name}`" in PAGE
