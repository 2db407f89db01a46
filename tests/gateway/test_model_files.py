"""Models over the API: a real kernel that fetches in a real child, and who may do what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from appliance.ai.building import place
from appliance.ai.building.place import Setup
from tests.ai.library.source import Source
from tests.gateway.engine import Home, wait_for
from tests.gateway.served import Served, watching
from tests.support.tinymodel import tiny_embedder, tiny_model


@pytest.fixture
def source() -> Iterator[Source]:
    files = {
        "tiny.gguf": tiny_model().read_bytes(),
        "bad.gguf": b"no model",
        "vectors.gguf": tiny_embedder().read_bytes(),
    }
    with Source(files) as source:
        yield source


def names(home: Home) -> list[str]:
    return [item["name"] for item in home.owner.get("/models")["items"]]


def pull_of(home: Home, job: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in home.owner.get("/models/pulls")["items"] if each["id"] == job["id"])


def ended(home: Home, job: dict[str, Any], state: str) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(
        lambda: (now := pull_of(home, job))["state"] not in ("waiting", "running") and now, "the end of the pull"
    )
    assert found["state"] == state, found
    return found


def test_a_model_is_offered_fetched_shown_taken_by_default_and_removed(home: Home, source: Source) -> None:
    asked = {"model": source.url("tiny.gguf"), "name": "api-tiny"}
    offer = home.owner.do("POST", "/models/offers", asked)
    assert (offer["name"], offer["bytes"], offer["source"]) == (
        "api-tiny",
        len(source.files["tiny.gguf"]),
        asked["model"],
    )
    served = Served(home.data, threads=19)
    try:
        with watching(served, headers=home.owner.headers) as panel:
            panel.until(lambda event: event["type"] == "hello")
            job = home.owner.do("POST", "/models/pulls", asked)
            told = panel.until(lambda event: event["type"] == "models" and event["pull"]["state"] == "done")
            assert told["pull"]["id"] == job["id"]
    finally:
        served.stop()
    assert ended(home, job, "done")["done"] == offer["bytes"]
    shown = home.owner.get("/models/api-tiny")
    assert (shown["kind"], shown["chat"], shown["source"]) == ("language", True, asked["model"])
    assert len(shown["sha256"]) == 64
    home.owner.do("PUT", "/models/default", {"model": "api-tiny"})
    listed = home.owner.get("/models")
    assert listed["default"] == ["api-tiny"]
    assert listed["loaded"] == [], "listing starts no model host"
    assert home.owner("POST", "/models/pulls", asked).status_code == 409
    home.owner.do("DELETE", "/models/api-tiny")
    assert "api-tiny" not in names(home)
    assert home.owner("GET", "/models/api-tiny").status_code == 404
    actions = [entry["action"] for entry in home.owner.get("/audit?limit=5")["items"]]
    assert actions[:3] == ["models.remove", "models.default", "models.pull"]
    home.owner.do("PATCH", "/settings", {"values": {"model_default": []}})


def test_what_makes_vectors_is_the_default_for_those(home: Home, source: Source) -> None:
    ended(home, home.owner.do("POST", "/models/pulls", {"model": source.url("vectors.gguf")}), "done")
    home.owner.do("PUT", "/models/default", {"model": "vectors"})
    assert home.owner.get("/models")["embed"] == "vectors"
    home.owner.do("DELETE", "/models/vectors")
    home.owner.do("PATCH", "/settings", {"values": {"model_embed": ""}})


def test_what_is_no_model_fails_and_says_why(home: Home, source: Source) -> None:
    job = home.owner.do("POST", "/models/pulls", {"model": source.url("bad.gguf")})
    assert "no model that can be used" in ended(home, job, "failed")["text"]
    job = home.owner.do("POST", "/models/pulls", {"model": source.url("tiny.gguf"), "name": "x", "sha256": "0" * 64})
    assert "checksum" in ended(home, job, "failed")["text"]
    assert "x" not in names(home)


def test_a_pull_can_be_cancelled_and_waiting_ones_too(home: Home, source: Source) -> None:
    go, half = Event(), Event()

    def hold(sent: int) -> None:
        if sent:
            half.set()
            go.wait(30)

    source.before_block = hold
    first = home.owner.do("POST", "/models/pulls", {"model": source.url("tiny.gguf"), "name": "first"})
    second = home.owner.do("POST", "/models/pulls", {"model": source.url("tiny.gguf"), "name": "second"})
    assert half.wait(30)
    assert pull_of(home, second)["state"] == "waiting"
    home.owner.do("DELETE", f"/models/pulls/{second['id']}")
    home.owner.do("DELETE", f"/models/pulls/{first['id']}")
    go.set()
    for job in (first, second):
        ended(home, job, "cancelled")
    assert not list((home.data / "models" / "pulls").glob("*.part"))
    assert home.owner("DELETE", "/models/pulls/000000000000").status_code == 404


def test_a_pull_goes_on_after_the_kernel_has_been_stopped(make_home: Callable[..., Home], source: Source) -> None:
    home = make_home()
    home.start_kernel()
    go, half = Event(), Event()

    def hold(sent: int) -> None:
        if sent >= 4 << 16:
            half.set()
            go.wait(30)

    source.before_block = hold
    job = home.owner.do("POST", "/models/pulls", {"model": source.url("tiny.gguf")})
    assert half.wait(30)
    part = home.data / "models" / "pulls" / "tiny.0.part"
    wait_for(lambda: part.exists() and part.stat().st_size >= 4 << 16, "the first half")
    home.stop_kernel()
    go.set()
    source.before_block = lambda sent: None
    assert 0 < part.stat().st_size < len(source.files["tiny.gguf"])
    home.start_kernel()
    ended(home, job, "done")
    assert source.asked[0] == ""
    assert source.asked[1].startswith("bytes="), "it goes on where it was"


def test_the_catalogue_and_what_this_machine_can_run(home: Home) -> None:
    entries = {entry["name"]: entry for entry in home.owner.get("/models/catalogue")["items"]}
    assert entries["qwen2.5-0.5b"]["licence"] == "Apache-2.0"
    found = home.owner.get("/models/recommendations")
    assert found["machine"]["bandwidth"] > 0
    assert sum(item["best"] for item in found["items"]) == 1
    assert home.owner("POST", "/models/pulls", {"model": "no-such-model"}).status_code == 404
    bad = home.owner("POST", "/models/pulls", {"model": "http://127.0.0.1:9/x.bin"})
    assert (bad.status_code, ".gguf" in bad.get_data(as_text=True)) == (422, True)
    away = home.owner("POST", "/models/offers", {"model": "http://127.0.0.1:9/x.gguf"})
    assert (away.status_code, "refused" in away.get_data(as_text=True)) == (502, True)


def test_the_engine_is_told_of(home: Home) -> None:
    shown = home.owner.get("/models/setup")
    assert (shown["engine"], shown["setup"]["state"], shown["wanted"]) == (None, "none", "unset")
    place.write_state(home.data, Setup(state="refused", text="there is no C++ compiler here"))
    assert home.owner.get("/models/setup")["setup"]["text"] == "there is no C++ compiler here"
    home.owner.do("DELETE", "/models/setup")


def test_readers_read_and_admins_of_all_change(home: Home) -> None:
    reader, admin_here = home.person("reader")[0], home.person("admin")[0]
    admin = home.person("admin", "*")[0]
    browser = {"X-Flowork": "1"}
    for path in ("/models", "/models/catalogue", "/models/setup", "/models/pulls"):
        assert reader("GET", path).status_code == 200
        assert home.anonymous("GET", path).status_code == 401
    for caller, status in ((reader, 403), (admin_here, 403), (admin, 404)):
        assert caller("DELETE", "/models/nothing", headers=browser).status_code == status
        assert caller("POST", "/models/pulls", {"model": "nothing"}, headers=browser).status_code == status
    assert reader("POST", "/models/setup", {}, headers=browser).status_code == 403


def test_without_a_kernel_files_are_still_listed(make_home: Callable[..., Home]) -> None:
    home = make_home()
    (home.data / "models").mkdir()
    Path(home.data / "models" / "mine.gguf").write_bytes(tiny_model().read_bytes())
    assert names(home) == ["mine"]
    assert home.owner("GET", "/models/pulls").status_code == 503
    assert json.loads(home.owner("POST", "/models/setup", {}).get_data())["status"] == 503
