"""The page Models: what is here and in memory, what could be, other places, trying one, and what was used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from appliance.security.secret import Secret
from tests.ai.library.source import Source
from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.cloud import Cloud, cloud
from tests.support.panel import OpenPanel, Panel, opened
from tests.support.tinymodel import tiny_model

expect.set_options(timeout=20_000)

ASKS: dict[str, Any] = {
    "name": "Ask the gardener",
    "triggers": [{"id": "hand", "type": "manual", "config": {}}],
    "nodes": [{"id": "say", "type": "llm", "config": {"prompt": "It is {{ payload.t }} °C."}}],
    "edges": [],
}


@pytest.fixture
def model(appliance: Appliance, owner: Secret, chromium: Any) -> Iterator[Cloud]:
    """A model server that the engine knows as ``cloud``."""
    window = opened(chromium, appliance, key=owner, phone=False, dark=False)
    with cloud() as server:
        upstream = {"provider": "openai", "config": {"url": server.url}}
        values = {"model_upstreams": {"cloud": upstream}, "model_default": ["cloud/small"]}
        window.api("PATCH", "/settings", {"values": values})
        yield server
    window.close()


def test_a_place_elsewhere_is_added_tried_asked_and_forgotten(panel: Panel, model: Cloud) -> None:
    page = panel.goto("/models?tab=elsewhere")
    expect(page.get_by_role("button", name="Try cloud")).to_be_visible()
    page.get_by_role("button", name="Add a place").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("garage")
    dialog.get_by_label("Address").fill(model.url)
    panel.shot("models-upstream")
    assert panel.accessibility("dialog[open]") == []
    dialog.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Try garage").click()
    expect(page.get_by_text("2 models in")).to_be_visible()

    model.say("It smells of wet stone.")
    page.get_by_role("tab", name="Try").click()
    page.get_by_label("Model", exact=True).select_option("garage/large")
    page.get_by_label("Prompt").fill("What does rain smell of?")
    page.get_by_role("button", name="Ask it").click()
    expect(page.get_by_test_id("reply")).to_have_text("It smells of wet stone.")
    assert model.bodies[-1]["model"] == "large"
    panel.shot("models-try")
    assert panel.accessibility() == []

    page.get_by_role("tab", name="Elsewhere").click()
    page.get_by_role("button", name="More for garage").click()
    page.get_by_role("menuitem", name="Forget").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("button", name="Try garage")).to_have_count(0)


def test_an_answer_is_read_while_it_is_made_and_can_be_stopped(panel: Panel, model: Cloud) -> None:
    page = panel.goto("/models?tab=try")
    page.get_by_label("Prompt").fill("What does rain smell of?")
    model.hold("It smells of ", "wet stone.")
    page.get_by_role("button", name="Ask it").click()
    reply = page.get_by_test_id("reply")
    expect(reply).to_have_text("It smells of")
    panel.shot("models-try-making")
    assert panel.accessibility() == []
    model.go.set()
    expect(reply).to_have_text("It smells of wet stone.")
    expect(page.get_by_text("out in")).to_be_visible()
    # What is stopped stays to be read, and the model does not go on.
    model.begin_and_hang("It smells of rain")
    page.get_by_label("Prompt").fill("And what of in a town?")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(reply).to_have_text("It smells of rain")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(reply).to_have_text("It smells of rain")
    assert model.web.hung_up.wait(20)


def test_what_flows_use_is_told(panel: Panel, model: Cloud) -> None:
    panel.api("POST", "/flows", {"flow": ASKS, "id": "asks", "deploy": True})
    model.say("Open the windows, all of them.")
    panel.api("POST", "/flows/asks/runs", {"input": {"t": 34}, "wait": 20})
    page = panel.goto("/models?tab=use")
    expect(page.get_by_role("row", name="Ask the gardener")).to_contain_text("cloud/small")
    panel.shot("models-use")
    assert panel.accessibility() == []


def test_what_could_be_here_is_told_with_size_and_licence(panel: Panel) -> None:
    page = panel.goto("/models?tab=get")
    table = page.get_by_role("table", name="Models that could be here")
    expect(table).to_be_visible()
    expect(page.get_by_text("best here")).to_be_visible()
    expect(page.get_by_text("Nothing is fetched unasked")).to_be_visible()
    panel.shot("models-get")
    assert panel.accessibility() == []


def test_fetching_asks_the_source_of_what_was_pressed(panel: Panel, appliance: Appliance) -> None:
    folder = appliance.data / "models"
    folder.mkdir(exist_ok=True)
    sizes = [
        {"quantization": each, "bytes": 1000, "url": f"http://127.0.0.1:9/{each}.gguf"} for each in ("Q4_0", "Q8_0")
    ]
    entry = {
        "name": "house",
        "title": "House",
        "kind": "language",
        "about": "",
        "licence": "",
        "source": "",
        "variants": sizes,
    }
    (folder / "catalogue.json").write_text(json.dumps([entry]))
    page = panel.goto("/models?tab=get")
    panel.expected.append("502")
    page.get_by_role("button", name="Fetch House Q8_0").click()
    expect(page.get_by_role("alert")).to_contain_text("127.0.0.1:9/Q8_0.gguf")


def test_a_pull_that_failed_says_why_is_tried_again_and_forgotten(open_panel: OpenPanel, appliance: Appliance) -> None:
    panel = open_panel(phone=True)
    page = panel.goto("/models?tab=get")
    coming = page.get_by_role("list", name="On their way")
    seen: set[str] = set()

    def fails() -> set[str]:
        pulls = panel.api("GET", "/models/pulls")["items"]
        return {pull["id"] for pull in pulls if pull["state"] == "failed"} - seen

    with Source({"half.gguf": tiny_model().read_bytes()[:100_000]}) as source:
        for _ in range(2):
            page.get_by_label("Address of a GGUF file").fill(source.url("half.gguf"))
            page.get_by_role("button", name="Look at it").click()
            page.get_by_role("button", name="Fetch it").click()
            seen.update(eventually(fails, "it did not fail"))
            expect(coming.get_by_role("listitem")).to_have_count(1)
            expect(coming).to_contain_text("half.gguf is cut off")
            expect(coming).to_be_in_viewport()  # the button is far below it
    panel.shot("models-failed")
    assert panel.accessibility() == []
    page.get_by_role("button", name="Forget half").click()
    expect(coming).to_have_count(0)
    assert not list((appliance.data / "models" / "pulls").glob("half*"))


def test_a_model_that_is_here_is_shown_taken_by_default_and_deleted(panel: Panel, appliance: Appliance) -> None:
    folder = appliance.data / "models"
    folder.mkdir(exist_ok=True)
    shutil.copy(tiny_model(), folder / "tiny.gguf")
    page = panel.goto("/models")
    row = page.get_by_role("row", name="tiny")
    expect(row).to_contain_text("language")
    panel.shot("models-here")
    assert panel.accessibility() == []
    page.get_by_role("button", name="More for tiny").click()
    page.get_by_role("menuitem", name="Take it by default").click()
    expect(row).to_contain_text("by default")
    assert panel.api("GET", "/models")["default"] == ["tiny"]
    page.get_by_role("button", name="More for tiny").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("No models here yet")).to_be_visible()
    assert not (folder / "tiny.gguf").exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_models_are_usable_by_everybody(open_panel: OpenPanel, scheme: str, phone: bool) -> None:
    panel = open_panel(phone=phone)
    panel.theme(scheme)
    page = panel.goto("/models")
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    expect(page.get_by_text("No models here yet")).to_be_visible()
    panel.shot(f"models-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []
    panel.goto("/models?tab=get")
    expect(page.get_by_role("row").nth(1)).to_contain_text("best")
    panel.shot(f"models-get-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []
