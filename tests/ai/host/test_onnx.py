"""ONNX models for real: every task with a tiny graph, inputs that are wrong or hostile, manifests that do not fit."""

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from appliance.ai.host.errors import ModelUnusable, TooLarge
from appliance.ai.host.onnx import load
from appliance.contracts import Busy, ConfigError, FlowError
from tests.support.onnxmodels import (
    WORDS,
    adder,
    colours,
    endless,
    lamp_picture,
    lamps,
    moods,
    picture,
    tone,
    tones,
    wav,
    words,
)


def infer(folder: Path, inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """One run of a model that is loaded for it."""
    model = load(folder, folder.name)
    try:
        return asyncio.run(model.infer(inputs, options))
    finally:
        model.close()
        model.close()


# --- texts ---------------------------------------------------------------------------------------------


def vectors(folder: Path, texts: list[str]) -> Any:
    model = load(folder, folder.name)
    try:
        return np.asarray(model.embed(texts))
    finally:
        model.close()


def table(folder: Path) -> Any:
    """The vector of each word, out of the graph's own weights."""
    import onnx
    from onnx import numpy_helper

    (weights,) = onnx.load(folder / "model.onnx").graph.initializer
    return numpy_helper.to_array(weights)


def test_vectors_are_the_mean_of_the_tokens_however_texts_are_batched(tmp_path: Path) -> None:
    folder = words(tmp_path)
    texts = ["the door is open", "rain", "the sun", *(f"{word} door" for word in WORDS[2:]), "the " * 40]
    found = vectors(folder, texts)
    for text, vector in zip(texts, found, strict=True):
        mean = table(folder)[[WORDS.index(word) for word in text.split()]].mean(axis=0)
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert vectors(folder, texts[:1])[0] == pytest.approx(found[0], abs=1e-6)


@pytest.mark.parametrize(("pooling", "word"), [("cls", "the"), ("last", "open")])
def test_other_poolings(tmp_path: Path, pooling: str, word: str) -> None:
    folder = words(tmp_path, pooling=pooling, normalize=False)
    found = vectors(folder, ["the door is open", "rain"])
    assert found[0] == pytest.approx(table(folder)[WORDS.index(word)], abs=1e-6)
    assert found[1] == pytest.approx(table(folder)[WORDS.index("rain")], abs=1e-6)


def test_a_text_is_cut_at_the_most_tokens_and_may_be_huge_or_empty(tmp_path: Path) -> None:
    folder = words(tmp_path, text={"max_tokens": 3})
    found = vectors(folder, ["the door is open", "the door is rain", "", "the door is " * 100_000])
    assert found[0] == pytest.approx(found[1])
    assert np.isfinite(found).all()
    model = load(folder, "words")
    assert (model.count("the door"), model.count("the door is open")) == (2, 3)
    model.close()


def test_texts_are_classified_alone_and_in_a_list(tmp_path: Path) -> None:
    folder = moods(tmp_path)
    (best, other) = infer(folder, {"text": "good sun"})["labels"]
    assert (best["label"], other["label"]) == ("happy", "sad")
    assert best["score"] + other["score"] == pytest.approx(1, abs=1e-3)
    several = infer(folder, {"text": ["the bad rain is open", "sun"]}, top=1)["labels"]
    assert [[one["label"] for one in each] for each in several] == [["sad"], ["happy"]]


# --- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_of_all_forms_are_classified(tmp_path: Path, form: str) -> None:
    found = infer(colours(tmp_path), {"image": picture("#10c020", (300, 200), form)}, top=1)
    assert [one["label"] for one in found["labels"]] == ["green"]


def test_a_picture_lies_as_the_camera_says(tmp_path: Path) -> None:
    """EXIF orientation 6: the left side of the file is the top of the picture."""
    image = Image.new("RGB", (64, 32))
    image.paste("white", (0, 0, 8, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    found = infer(lamps(tmp_path), {"image": out.getvalue()}, threshold=0.9, top=1)
    assert (found["width"], found["height"]) == (32, 64)
    assert found["objects"][0]["box"][1] == 0


def test_the_channels_of_a_picture_are_declared(tmp_path: Path) -> None:
    assert infer(colours(tmp_path, channels="bgr"), {"image": picture("red")})["labels"][0]["label"] == "blue"
    inverted = colours(tmp_path / "other", scale=1.0, mean=[0.0] * 3, std=[-255.0] * 3)
    assert infer(inverted, {"image": picture("#ff8000")})["labels"][0]["label"] == "blue"


@pytest.mark.parametrize("form", ["yolo", "detr", "ready"])
def test_objects_are_where_they_are_in_the_picture(tmp_path: Path, form: str) -> None:
    """128x64 in a 64x64 letterbox: a lamp of 16x16 fills one cell, whose box is twice as large."""
    image = lamp_picture((128, 64), (32, 16, 48, 32), (96, 0, 112, 16))
    found = infer(lamps(tmp_path, form), {"image": image}, threshold=0.6)
    boxes = sorted(tuple(one["box"]) for one in found["objects"])
    assert boxes == [(24.0, 8.0, 32.0, 32.0), (88.0, 0.0, 32.0, 24.0)], "cut off at the edge of the picture"
    assert {one["label"] for one in found["objects"]} == {"lamp"}
    assert all(0.9 < one["score"] <= 1 for one in found["objects"])


def test_one_object_seen_twice_is_told_once(tmp_path: Path) -> None:
    image = lamp_picture((64, 64), (16, 16, 32, 24))  # two cells, whose boxes share a third of what they cover
    both = infer(lamps(tmp_path), {"image": image}, threshold=0.6, overlap=0.5)
    once = infer(lamps(tmp_path), {"image": image}, threshold=0.6, overlap=0.3)
    assert (len(both["objects"]), len(once["objects"])) == (2, 1)


def test_objects_are_drawn(tmp_path: Path) -> None:
    image = lamp_picture((320, 160), (80, 80, 120, 120))
    found = infer(lamps(tmp_path), {"image": image}, threshold=0.6, draw=True)
    drawn = Image.open(io.BytesIO(found["picture"]))
    assert (drawn.format, drawn.size) == ("JPEG", (320, 160))
    left, top, _, height = found["objects"][0]["box"]
    red, green, blue = drawn.getpixel((round(left), round(top + height / 2)))  # type: ignore[misc]
    assert red > 150 > green + blue - 60, "the first colour is red"


def test_labels_are_chosen(tmp_path: Path) -> None:
    image = lamp_picture((64, 64), (16, 16, 24, 24))
    assert len(infer(lamps(tmp_path), {"image": image}, labels=["lamp"])["objects"]) == 1
    with pytest.raises(ConfigError, match="does not know cat; it knows lamp"):
        infer(lamps(tmp_path), {"image": image}, labels=["cat"])


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (png_of(60_000, 60_000), TooLarge, "pixels"),
        (png_of(9_000, 9_000), TooLarge, "9000x9000"),
        (png_of(500, 500), ConfigError, "not a picture that can be read"),
        (picture("red", (500, 500), "JPEG")[:700], ConfigError, "not a picture that can be read"),
        (b"", ConfigError, r"not a picture of a kind that is read \(JPEG, PNG, "),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ConfigError, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ConfigError, "not a picture"),
        ("a text", ConfigError, "a value of type str"),
        (None, ConfigError, "nothing"),
    ],
)
def test_hostile_pictures_are_refused(tmp_path: Path, data: Any, error: type[FlowError], says: str) -> None:
    with pytest.raises(error, match=says):
        infer(colours(tmp_path), {"image": data})


# --- sounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "rate"),
    [
        ({"bits": 16}, 8000),
        ({"bits": 8}, 8000),
        ({"bits": 24, "channels": 2}, 16000),
        ({"bits": 32}, 11025),
        ({"bits": 32, "kind": 3}, 44100),
        ({"bits": 64, "kind": 3, "channels": 2}, 8000),
    ],
)
def test_sounds_of_all_forms_are_tagged(tmp_path: Path, how: dict[str, int], rate: int) -> None:
    folder = tones(tmp_path)
    for hertz, label in ((200, "low"), (2500, "high")):
        found = infer(folder, {"audio": wav(tone(hertz, 1.0, rate), rate, **how)}, top=1)
        assert [tag["label"] for tag in found["tags"]] == [label]
        assert found["seconds"] == pytest.approx(1)


def test_a_tag_says_when_it_is_heard(tmp_path: Path) -> None:
    sound = np.concatenate([tone(200, 1.0), tone(3000, 0.5), tone(200, 1.0)])
    found = infer(tones(tmp_path), {"audio": wav(sound)})
    when = {tag["label"]: tag["at"] for tag in found["tags"]}
    assert when["high"] == 1.0
    assert when["low"] in (0.0, 0.5, 1.5, 2.0)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"ID3\x03 mp3", ConfigError, "not a WAV file"),
        (b"RIFF\0\0\0\0WAVE", ConfigError, "cut off or damaged"),
        (wav(tone(200))[:30], ConfigError, "cut off or damaged"),
        (wav([]), ConfigError, "no sound"),
        (wav(tone(200), kind=85), ConfigError, "of kind 85"),
        (wav(tone(200, 0.1), rate=1000)[:24] + b"\0\0\0\0" + wav(tone(200, 0.1))[28:], ConfigError, "at 0 Hz"),
        (wav(np.zeros(700_000), rate=1000, bits=8), TooLarge, "700 s"),
        (7, ConfigError, "a value of type int"),
    ],
)
def test_hostile_sounds_are_refused(tmp_path: Path, data: Any, error: type[FlowError], says: str) -> None:
    with pytest.raises(error, match=says):
        infer(tones(tmp_path), {"audio": data})


def test_a_recording_that_was_cut_off_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = wav(tone(200, 2.0))
    assert infer(tones(tmp_path), {"audio": whole[: len(whole) // 2]})["seconds"] == pytest.approx(1, abs=0.01)


# --- any graph -----------------------------------------------------------------------------------------


def test_any_graph_takes_numbers_and_gives_numbers(tmp_path: Path) -> None:
    assert infer(adder(tmp_path), {"a": [[1, 2], [3, 4]], "b": [[10, 20], [30, 40.5]]}) == {
        "sum": [[11.0, 22.0], [33.0, 44.5]]
    }


def test_a_picture_is_prepared_for_any_graph(tmp_path: Path) -> None:
    folder = colours(tmp_path)
    (folder / "model.json").write_text(json.dumps({"task": "run", "image": {"size": [8, 8]}}))
    assert infer(folder, {"image": picture("#ff0080")})["logits"][0] == pytest.approx([10, 0, 10 * 128 / 255])


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"a": [[1, 2]]}, r"inputs: b missing; the graph takes a \[any, 2\], b \[any, 2\]"),
        ({"a": [[1, 2]], "b": [[1, 2]], "c": 1}, "the model has no c"),
        ({"a": [[1, 2], [3]], "b": [[1, 2]]}, r"inputs\.a: numbers"),
        ({"a": "text", "b": [[1, 2]]}, r"inputs\.a: numbers"),
        ({"a": [[1, 2, 3]], "b": [[1, 2, 3]]}, "cannot work with this: .*"),
        ({"a": 10**400, "b": [[1, 2]]}, r"inputs\.a: numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_said(tmp_path: Path, inputs: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        infer(adder(tmp_path), inputs)


def test_an_answer_without_an_end_is_bounded(tmp_path: Path) -> None:
    rows = [[0.0, 0.0]] * 600_000
    with pytest.raises(TooLarge, match="1,200,000 numbers"):
        infer(adder(tmp_path), {"a": rows, "b": [[1.0, 1.0]]})


def test_options_that_the_task_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="options: this model has no sharp; it takes top, threshold"):
        infer(colours(tmp_path), {"image": picture()}, sharp=1)
    for options in ({"top": 0}, {"threshold": "high"}):
        with pytest.raises(ConfigError, match="options: "):
            infer(colours(tmp_path), {"image": picture()}, **options)
    with pytest.raises(ConfigError, match="takes `image` and nothing else, not text"):
        infer(colours(tmp_path), {"text": "x"})


def test_a_run_ends_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    """The graph turns for hours; closing waits for the run, so the test ends only if the run does."""

    async def cut() -> None:
        model = load(endless(tmp_path), "endless")
        inputs = {"x": np.eye(64).tolist()}
        runs = [asyncio.create_task(model.infer(inputs, {})) for _ in range(40)]
        refused, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
        assert {type(run.exception()) for run in refused} == {Busy}
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        model.close()

    asyncio.run(cut())


TELLTALE = """
import sys
from pathlib import Path
from appliance.ai.host.onnx import load
import asyncio
model = load(Path(sys.argv[1]), "adder")
print(asyncio.run(model.infer({"a": [[1, 2]], "b": [[3, 4]]}, {})))
model.close()
"""


def test_the_library_keeps_no_diary_and_tells_nobody(tmp_path: Path) -> None:
    """Its wheels collect what they run in the user's cache and send it home, unless they are told not to."""
    folder = adder(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", TELLTALE, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == ("{'sum': [[4.0, 6.0]]}\n", "")
    assert list(home.rglob("*")) == []


# --- models that are no good ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.onnx", b"", "cannot be loaded"),
        ("model.onnx", b"noise " * 100, "cannot be loaded"),
        ("model.json", b"{", "model.json of 'moods' is not JSON"),
        ("model.json", b'{"task": "dance"}', "'dance'.*; the tasks are embed, classify, detect_objects, tags, run$"),
        ("model.json", b'{"task": "classify"}', "either `text` or `image`"),
        ("model.json", b'{"task": "classify", "image": {"size": [0, 8]}}', r"image\.size"),
        ("model.json", b'{"task": "classify", "image": {"size": [8, 8], "colour": 1}}', "colour"),
        ("model.json", b'{"task": "classify", "text": {}, "output": "nothing"}', "no output 'nothing'; it has logits"),
        ("model.json", b'{"task": "classify", "text": {"tokenizer": "../../etc/passwd"}}', "tokenizer"),
        ("model.json", b'{"task": "classify", "text": {}, "labels": "gone.txt"}', "gone.txt' cannot be read: No such"),
        ("tokenizer.json", b"{}", "is no tokenizer"),
        ("labels.txt", b'{"x": "y"}', "the labels of 'moods'"),
    ],
)
def test_a_model_that_is_no_good_says_why(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    folder = moods(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelUnusable, match=says):
        load(folder, "moods")


def test_labels_come_from_lines_lists_and_numbered_names(tmp_path: Path) -> None:
    folder = moods(tmp_path)
    for text in ("happy\n\nsad\n", '["happy", "sad"]', '{"0": "happy", "1": "sad"}'):
        (folder / "labels.txt").write_text(text)
        assert infer(folder, {"text": "sun"})["labels"][0]["label"] == "happy"
    (folder / "labels.txt").write_text('{"1": "sad"}')
    assert infer(folder, {"text": "sun"})["labels"][0]["label"] == "0", "a class without a name is its number"
