"""``flowork train`` over a real engine: a data set of what its runs asked a model, and two models side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.kernel.kernel import Kernel
from tests.commands.box import Box
from tests.support.cloud import Cloud, cloud
from tests.support.flows import flow, node

pytest.importorskip("numpy", reason="the models extra is not installed")


@pytest.fixture
def server(box: Box, kernel: Kernel) -> Iterator[Cloud]:
    """Two models that say what a test writes for them."""
    with cloud() as found:
        upstream = {"near": {"provider": "openai", "config": {"url": found.url}}}
        box.run("settings", "set", f"model_upstreams={json.dumps(upstream)}", "model_default=near/small")
        kernel.reload(lambda: None, lambda exc: None)
        yield found


def test_what_runs_asked_a_model_becomes_a_data_set(box: Box, server: Cloud) -> None:
    ask = node("ask", "llm", {"system": "Be short.", "prompt": "Weather in {{ payload.town }}?", "cache": False})
    name = box.deploy({**flow(ask), "name": "Weather"})
    for town in ("Graz", "Linz", "Wien"):
        server.say(f"Sunny in {town}.")
        box.run("run", name, "--input", json.dumps({"town": town}))
    made = box.json("train", "dataset", "weather", "--runs", name)
    assert (made["read"], made["train"] + made["held"]) == (3, 3)
    folder = Path(made["folder"])
    lines = [line for side in ("train", "held") for line in (folder / f"{side}.jsonl").read_text().splitlines()]
    found = [json.loads(line) for line in lines]
    assert {one["messages"][1]["content"] for one in found} == {
        "Weather in Graz?",
        "Weather in Linz?",
        "Weather in Wien?",
    }
    assert all(one["messages"][0] == {"role": "system", "content": "Be short."} for one in found)
    assert "is there already" in box.fails("train", "dataset", "weather", "--runs", name)
    box.run("train", "dataset", "nothing", code=2)
    box.run("train", "dataset", "../escape", "--runs", name, code=2)


def test_two_models_answer_the_same_questions(box: Box, server: Cloud) -> None:
    questions = box.folder.parent / "q.jsonl"
    questions.write_text(json.dumps({"question": "capital of France?", "answer": "Paris"}) + "\n")
    server.say("London")
    server.say("It is Paris")
    told = box.json("train", "arena", "near/small", "near/large", "--file", str(questions))
    assert (told["wins_a"], told["wins_b"]) == (0, 1)
    assert [body["model"] for body in server.bodies] == ["small", "large"]
    text = box.run("train", "arena", "near/small", "near/large", "--file", str(questions))
    assert "capital of France?" in text and "near/large" in text


def test_a_folder_that_is_no_model_is_refused_in_a_line(box: Box, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the train extra is not installed")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in box.fails("train", "convert", str(tmp_path / "empty"), str(tmp_path / "x.gguf"))


def test_a_set_that_holds_nothing_out_has_no_questions_for_an_arena(box: Box) -> None:
    (box.folder.parent / "one.jsonl").write_text(json.dumps({"question": "warm?", "answer": "yes"}) + "\n")
    assert "nothing is held out" in box.run("train", "dataset", "one", "--file", str(box.folder.parent / "one.jsonl"))
    assert "'one' holds nothing out; give a --file" in box.fails("train", "arena", "a", "b", "--set", "one")
