"""``flowork models`` on real files, against a real source and a real model host."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from appliance import startup
from appliance.ai.building import place
from appliance.kernel.kernel import Kernel
from tests.ai.library.source import Source
from tests.commands.box import Box
from tests.support.broker import eventually
from tests.support.modelhost import ModelHost
from tests.support.tinymodel import tiny_adapter, tiny_embedder, tiny_model


@pytest.fixture
def source() -> Iterator[Source]:
    with Source({"tiny.gguf": tiny_model().read_bytes()}) as source:
        yield source


def test_a_model_is_shown_first_and_then_fetched(box: Box, source: Source) -> None:
    assert "no models yet" in box.run("models")
    url = source.url("tiny.gguf")
    said = box.run("models", "pull", url, "--yes")
    assert " kB" in said
    assert "not known: it is written down" in said
    assert "tiny is here" in said
    shown = box.json("models", "show", "tiny")
    assert (shown["kind"], shown["chat"], shown["source"]) == ("language", True, url)
    assert "tiny" in box.run("models", "list")
    assert "2,048 tokens" in box.run("models", "show", "tiny")
    assert box.json("models", "check", "tiny")["right"] is True
    assert box.json("audit", "list")["items"][0]["action"] == "models.pull"
    assert "already" in box.fails("models", "pull", url, "--yes", code=4)


def test_where_nobody_can_be_asked_it_takes_a_yes(box: Box, source: Source) -> None:
    box.run("models", "pull", source.url("tiny.gguf"), code=1)
    assert "--yes" in box.last.stderr
    assert box.json("models")["items"] == []
    error = box.json("models", "pull", source.url("tiny.gguf"), code=1)["error"]
    assert "--yes" in error["message"]


def test_damage_is_found_and_a_model_removed(box: Box, source: Source) -> None:
    box.run("models", "pull", source.url("tiny.gguf"), "--yes", "--name", "mine")
    file = box.folder / "models" / "mine.gguf"
    with file.open("r+b") as opened:
        opened.seek(-4, 2)
        opened.write(b"oops")
    assert "DAMAGED" in box.run("models", "check", "mine", code=1)
    assert "--yes" in box.fails("models", "remove", "mine")
    assert "are free again" in box.run("models", "remove", "mine", "--yes")
    assert not file.exists()
    assert "no model" in box.fails("models", "remove", "mine", "--yes", code=3)


def test_a_stick_is_imported_and_what_is_no_model_is_said(box: Box, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "one.gguf").write_bytes(tiny_model().read_bytes())
    (stick / "two.gguf").write_bytes(b"nothing")
    box.run("models", "pull", str(stick), "--yes", code=1)
    assert "two: this is no model" in box.last.stderr
    assert [item["name"] for item in box.json("models")["items"]] == ["one"]
    assert "no file or folder" in box.fails("models", "pull", str(stick / "three.gguf"), "--yes", code=3)


def test_an_adapter_is_put_beside_its_model(box: Box, tmp_path: Path) -> None:
    (box.folder / "models").mkdir()
    (box.folder / "models" / "talker.gguf").write_bytes(tiny_model().read_bytes())
    file = tiny_adapter(tmp_path / "house.gguf")
    assert "--adapter-of" in box.fails("models", "pull", str(file), "--yes")
    assert "talker+house is here" in box.run("models", "pull", str(file), "--adapter-of", "talker", "--yes")
    assert [item["name"] for item in box.json("models")["items"]] == ["talker", "talker+house"]
    assert "are free again" in box.run("models", "remove", "talker+house", "--yes")
    assert [item["name"] for item in box.json("models")["items"]] == ["talker"]


def test_defaults_are_settings(box: Box) -> None:
    models = box.folder / "models"
    models.mkdir()
    (models / "talker.gguf").write_bytes(tiny_model().read_bytes())
    (models / "vectors.gguf").write_bytes(tiny_embedder().read_bytes())
    box.run("models", "default", "talker")
    assert "for vectors" in box.run("models", "default", "vectors")
    assert box.json("settings", "show", "model_default")["value"] == ["talker"]
    assert box.json("settings", "show", "model_embed")["value"] == "vectors"


def test_the_catalogue_and_what_fits(box: Box) -> None:
    assert "qwen2.5-0.5b" in box.run("models", "catalogue")
    found = box.json("models", "recommend")
    best = next(item for item in found["items"] if item["best"])
    assert best["fits"]
    assert best["needs"] <= found["machine"]["bound"]
    said = box.run("models", "recommend")
    assert "~" in said
    assert "to begin with: flowork models pull" in box.last.stderr
    assert "do you mean" in box.fails("models", "pull", "qwen", "--yes", code=3)


def test_a_model_is_measured_through_the_host_and_the_figure_kept(box: Box) -> None:
    with ModelHost(box.folder, models={"tiny": tiny_model()}):
        measured = box.json("models", "bench", "tiny")["speed"]
        status = box.json("models", "status")
        assert [each["model"] for each in status["host"]["models"]] == ["tiny"]
        assert "tiny" in box.run("models", "status")
    assert measured["prompt"] > 0
    assert measured["generation"] > 0
    assert box.json("models", "show", "tiny")["speed"] == measured
    advised = next(item for item in box.json("models", "recommend")["items"] if item["name"] == "tiny")
    assert (advised["measured"], advised["speed"], advised["here"]) == (True, measured["generation"], True)


def test_without_a_host_nothing_is_started_and_a_measurement_says_so(box: Box) -> None:
    (box.folder / "models").mkdir()
    (box.folder / "models" / "tiny.gguf").write_bytes(tiny_model().read_bytes())
    assert box.json("models", "status")["host"] is None
    assert "flowork up" in box.fails("models", "bench", "tiny")


def test_a_pull_in_the_background_is_the_kernels(box: Box, source: Source, kernel: Kernel) -> None:
    job = box.json("models", "pull", source.url("tiny.gguf"), "--yes", "--background")
    eventually(lambda: box.json("models")["items"], "the model")
    done = eventually(lambda: [each for each in box.json("models", "status")["pulls"] if each["state"] == "done"])
    assert done[0]["id"] == job["id"]
    assert "no pull" in box.fails("models", "cancel", "0" * 12, code=3)


def test_a_pull_in_the_background_that_fails_says_why_until_it_is_forgotten(
    box: Box, source: Source, kernel: Kernel
) -> None:
    source.files["bad.gguf"] = source.files["tiny.gguf"][:100_000]
    job = box.json("models", "pull", source.url("bad.gguf"), "--yes", "--background")
    eventually(lambda: [each for each in box.json("models", "status")["pulls"] if each["state"] == "failed"])
    said = box.run("models", "status")
    assert "bad, failed: " in said and "bad.gguf is cut off" in said
    assert f"`flowork models cancel {job['id']}` forgets it" in said
    box.run("models", "cancel", job["id"])
    assert "failed" not in box.run("models", "status")


def test_what_failed_is_tried_again_or_forgotten_also_on_a_full_disk(
    box: Box, source: Source, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = source.files["tiny.gguf"]
    source.files["m.gguf"] = whole[:100_000]
    pull = ("models", "pull", source.url("m.gguf"), "--yes", "--background")
    box.json(*pull)

    def failed() -> list[object]:
        return [each for each in box.json("models", "status")["pulls"] if each["state"] == "failed"]

    eventually(failed)

    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", refuse)
        assert "no room left for models. Nothing was begun" in box.fails(*pull)
        assert len(failed()) == 1
    source.files["m.gguf"], source.etag = whole, '"two"'
    box.json(*pull)
    assert failed() == []
    eventually(lambda: box.json("models")["items"], "the model")


def test_what_has_come_of_a_pull_that_was_cut_off_is_removed(box: Box, source: Source) -> None:
    pulls = box.folder / "models" / "pulls"
    pulls.mkdir(parents=True)
    for name in ("m.0.part", "m.0.part.json", "m.0.part.lock", "m.1.part", "m.x.0.part"):
        (pulls / name).write_bytes(b"a model")
    assert box.json("models", "remove", "m", "--yes") == {"removed": "m", "bytes": 14}
    assert [each.name for each in pulls.iterdir()] == ["m.x.0.part"]
    box.fails("models", "remove", "m", "--yes", code=3)


def test_a_setup_that_cannot_be_says_why_and_turns_nothing_else_off(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.ai.building.make.DISK_TO_INSTALL", 1 << 60)
    monkeypatch.setattr("appliance.ai.building.make.DISK_TO_COMPILE", 1 << 60)
    box.run("models", "setup", code=1)
    assert "are needed" in box.last.stderr
    assert box.json("models", "status")["setup"]["state"] == "refused"
    assert box.json("settings", "show", "models_setup")["value"] == "on"


@pytest.mark.timeout(200)
def test_the_kernel_makes_the_engine_by_itself_where_that_is_wanted_and_says_once_that_it_cannot(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)  # nothing to be had: it fails soon, whatever this machine has
    box.run("settings", "set", "models_setup=on")
    started = Kernel(box.folder)
    try:
        started.start()
        jobs = started.model_jobs
        ended = lambda: jobs.view()["setup"]["state"] in ("failed", "refused")  # noqa: E731 - asked again and again
        for _ in range(6):  # pip takes its time where much else goes on
            with suppress(AssertionError):
                eventually(ended)
                break
        eventually(lambda: "there is no model engine" in caplog.text, "the line in the log")
        began = place.read_state(box.folder).began
        jobs.look()
        assert place.read_state(box.folder).began == began, "it is not tried again and again"
    finally:
        started.stop()
    assert caplog.text.count("there is no model engine") == 1
    assert json.loads(place.Places(box.folder).state.read_bytes())["state"] in ("failed", "refused")


def test_by_default_no_engine_is_made(box: Box, kernel: Kernel) -> None:
    assert kernel.model_jobs.view()["setup"]["state"] == "none"
    assert not (box.folder / "models" / "engine").exists()


def test_no_models_holds_and_models_only_where_nothing_was_said(box: Box) -> None:
    def holds() -> str:
        found: str = box.json("settings", "show", "models_setup")["value"]
        return found

    for wanted, then in ((False, "off"), (True, "off")):
        startup._decide_on_models(box.folder, wanted)
        assert holds() == then
    box.run("settings", "reset", "models_setup")
    assert holds() == "unset"
    for wanted, then in ((True, "on"), (True, "on"), (False, "off")):
        startup._decide_on_models(box.folder, wanted)
        assert holds() == then
