"""The memory over the API: looking, searching, forgetting, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.engine import Home
from tests.support.flows import flow, node


@pytest.fixture
def remembering(home: Home) -> tuple[Home, str]:
    """An engine with a flow that remembers, and what it was told."""
    keep = node("k", "memory", {"text": "{{ payload.text }}", "outcome": "{{ payload.end }}", "tags": ["pump"]})
    name = home.save({**flow(keep), "name": "Remembers"}, workspace="mem")
    home.owner("DELETE", "/memory/episodes?workspace=mem&all=true")
    for text, end in (("the pump ran dry", "failed"), ("the filter was cleaned", "solved"), ("all is well", "solved")):
        assert home.run(name, {"text": text, "end": end})["state"] == "succeeded"
    return home, name


def texts(found: Any) -> list[str]:
    return [one["text"] for one in found["items"]]


def test_episodes_are_listed_searched_and_counted(remembering: tuple[Home, str]) -> None:
    home, name = remembering
    listed = home.owner.get("/memory/episodes?workspace=mem")
    assert texts(listed) == ["all is well", "the filter was cleaned", "the pump ran dry"]
    assert listed["items"][2]["flow"] == name
    assert listed["items"][2]["run"]
    found = home.owner.get("/memory/episodes?workspace=mem&query=why did the pump run dry")
    assert texts(found)[0] == "the pump ran dry"
    assert found["items"][0]["score"] > 0
    assert found["items"][0]["meaning"] is None  # there is no model here
    assert texts(home.owner.get("/memory/episodes?workspace=mem&outcome=failed")) == ["the pump ran dry"]
    first = home.owner.get("/memory/episodes?workspace=mem&limit=2")
    assert texts(home.owner.get(f"/memory/episodes?workspace=mem&limit=2&cursor={first['next']}")) == [
        "the pump ran dry"
    ]
    told = home.owner.get("/memory?workspace=mem")
    assert (told["episodes"], told["outcomes"], told["vectors"]) == (3, {"solved": 2, "failed": 1}, {})
    assert home.owner.get("/memory?workspace=elsewhere")["episodes"] == 0


def test_episodes_are_forgotten(remembering: tuple[Home, str]) -> None:
    home, _ = remembering
    (one, *_) = home.owner.get("/memory/episodes?workspace=mem")["items"]
    assert home.owner("DELETE", "/memory/episodes?workspace=mem").status_code == 422
    assert home.owner.do("DELETE", f"/memory/episodes?workspace=mem&id={one['id']}") == {"forgotten": 1}
    assert home.owner.do("DELETE", "/memory/episodes?workspace=mem&outcome=failed") == {"forgotten": 1}
    assert texts(home.owner.get("/memory/episodes?workspace=mem")) == ["the filter was cleaned"]
    assert home.owner.do("DELETE", "/memory/episodes?workspace=mem&all=true") == {"forgotten": 1}
    entries = home.owner.get("/audit?limit=20")["items"]
    assert any(entry["action"] == "memory.forget" for entry in entries)


def test_a_reader_looks_and_only_an_admin_forgets(remembering: tuple[Home, str]) -> None:
    home, _ = remembering
    reader, _ = home.person("reader", "mem")
    runner, _ = home.person("runner", "mem")
    stranger, _ = home.person("admin", "other")
    assert len(reader.get("/memory/episodes?workspace=mem")["items"]) == 3
    assert runner("DELETE", "/memory/episodes?workspace=mem&all=true").status_code == 403
    assert stranger("GET", "/memory/episodes?workspace=mem").status_code == 403
    assert stranger("DELETE", "/memory/episodes?workspace=mem&all=true").status_code == 403
