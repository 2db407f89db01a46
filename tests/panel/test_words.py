"""Models in the browser: a step's words as they come, a flow from a description, a flow after its spec."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.cloud import Cloud, cloud
from tests.support.hand import Hand
from tests.support.panel import OpenPanel, Panel, opened

expect.set_options(timeout=20_000)

ASKS: dict[str, Any] = {
    "name": "Ask the gardener",
    "triggers": [{"id": "hand", "type": "manual", "config": {}}],
    "nodes": [{"id": "say", "type": "llm", "name": "Say it", "config": {"prompt": "It is {{ payload.t }} °C."}}],
    "edges": [],
}
CHOICE = {"triggers": ["manual"], "nodes": ["condition", "log"]}
HOT: dict[str, Any] = {
    "name": "Too hot",
    "triggers": [{"id": "manual", "type": "manual", "config": {}}],
    "nodes": [
        {"id": "condition", "type": "condition", "config": {"when": "payload.t > 30"}},
        {"id": "log", "type": "log", "config": {"message": "{{ payload.t }} °C"}},
    ],
    "edges": [{"from": "condition", "to": "log", "port": "true"}],
}


@pytest.fixture
def model(appliance: Appliance, owner: Secret, chromium: Any) -> Iterator[Cloud]:
    """A model server that the engine knows; it says what the test has written."""
    window = opened(chromium, appliance, key=owner, phone=False, dark=False)
    with cloud() as server:
        upstream = {"provider": "openai", "config": {"url": server.url}}
        values = {"model_upstreams": {"cloud": upstream}, "model_default": ["cloud/small"]}
        window.api("PATCH", "/settings", {"values": values})
        yield server
    window.close()


def test_the_words_of_a_step_come_as_they_are_made(panel: Panel, model: Cloud) -> None:
    """One watches the run already when its model begins to speak."""
    waiting = {"id": "wait", "type": "wait_event", "config": {"name": "speak"}}
    flow = {**ASKS, "name": "Speaks", "nodes": [waiting, *ASKS["nodes"]], "edges": [{"from": "wait", "to": "say"}]}
    panel.api("POST", "/flows", {"flow": flow, "id": "speaks", "deploy": True})
    run = panel.api("POST", "/flows/speaks/runs", {"input": {"t": 34}})["run"]
    page = panel.goto(f"/runs/{run}")
    expect(page.get_by_role("region", name="Step wait").or_(page.get_by_text("waits")).first).to_be_visible()
    model.hold("Open the windows", " and water the tomatoes.")
    panel.api("POST", "/events", {"name": "speak", "payload": {"t": 34}})
    words = page.get_by_test_id("step-words")
    expect(words).to_contain_text("Open the windows")
    panel.shot("run-words")
    assert panel.accessibility() == []
    model.go.set()
    expect(page.get_by_test_id("step-output")).to_contain_text("water the tomatoes")


def test_a_flow_is_written_from_a_description(panel: Panel, model: Cloud) -> None:
    model.say(json.dumps(CHOICE))
    model.say(json.dumps({"flow": HOT, "sample": {"t": 31}}))
    page = panel.goto("/flows?new")
    page.get_by_role("tab", name="In words").click()
    page.get_by_label("What is it to do?").fill("Log it when the greenhouse is over 30 degrees")
    page.get_by_role("button", name="Write it", exact=True).click()
    expect(page.get_by_role("button", name="Too hot")).to_be_visible()
    ran = page.get_by_role("region", name="Dry run")
    expect(ran.get_by_role("listitem")).to_have_text([re.compile("condition.*done by true"), re.compile("log.*done")])
    page.get_by_text("What it does, in words").click()
    expect(page.get_by_role("dialog")).to_contain_text("Log it when the greenhouse is over 30 degrees")
    panel.shot("new-flow-words")
    assert panel.accessibility("dialog[open]") == []
    # The same words give the same flow; one that is stopped leaves the one before it.
    anew = page.get_by_role("button", name="Write it anew")
    expect(anew).to_be_disabled()
    model.begin_and_hang("{")
    page.get_by_label("What is it to do?").fill("Log it when the greenhouse is over 40 degrees")
    anew.click()
    page.get_by_role("button", name="Stop").click()
    assert model.web.hung_up.wait(20)
    expect(ran).to_be_visible()
    expect(anew).to_be_enabled()
    page.get_by_role("button", name="Create", exact=True).click()
    page.wait_for_url("**/flows/too-hot/edit")
    assert panel.api("GET", "/flows/too-hot")["live"] is None, "a draft is never deployed by itself"


def test_where_no_model_is_that_is_said_before_one_tries(panel: Panel) -> None:
    panel.api("PATCH", "/settings", {"values": {"model_upstreams": {}, "model_default": []}})
    page = panel.goto("/flows?new")
    page.get_by_role("tab", name="In words").click()
    expect(page.get_by_text("There is no model here yet")).to_be_visible()
    assert panel.accessibility("dialog[open]") == []
    page.get_by_role("link", name="Get a model").click()
    expect(page.get_by_role("table", name="Models that could be here")).to_be_visible()


def test_a_model_that_does_not_answer_is_told(panel: Panel, model: Cloud) -> None:
    panel.expected = ["Failed to load resource"]
    model.fail(401, "wrong key")
    page = panel.goto("/flows?new")
    page.get_by_role("tab", name="In words").click()
    page.get_by_label("What is it to do?").fill("Anything")
    page.get_by_role("button", name="Write it", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("wrong key")
    expect(page.get_by_role("button", name="Create", exact=True)).to_be_disabled()


def test_the_flow_follows_its_spec_and_can_be_had_back(open_panel: OpenPanel, model: Cloud) -> None:
    panel = open_panel()
    before = {**HOT, "name": "Follows", "nodes": HOT["nodes"][:1], "edges": []}
    panel.api("POST", "/flows", {"flow": before, "id": "follows"})
    panel.goto("/flows/follows/edit")
    hand = Hand(panel, "follows")
    page = panel.page
    page.get_by_test_id("spec-button").click()
    page.get_by_role("button", name="Write it from the flow").click()
    expect(page.get_by_role("textbox", name="The flow’s specification")).to_contain_text("Follows")
    model.say(json.dumps(CHOICE))
    model.say(json.dumps({"flow": {**HOT, "name": "Follows"}, "sample": None}))
    page.get_by_role("button", name="Change the flow to it").click()
    expect(hand.node("log")).to_be_visible()
    panel.shot("editor-spec")
    assert panel.accessibility() == []
    page.get_by_role("button", name="Undo").click()
    expect(hand.node("log")).to_have_count(0)


def test_below_a_long_spec_the_buttons_are_in_reach_on_a_phone(open_panel: OpenPanel) -> None:
    panel = open_panel(phone=True)
    long = {**HOT, "name": "Long", "spec": "\n".join(f"- line {number}" for number in range(80))}
    panel.api("POST", "/flows", {"flow": long, "id": "long"})
    page = panel.goto("/flows/long/edit")
    page.get_by_test_id("spec-button").click()
    expect(page.get_by_role("textbox", name="The flow’s specification")).to_be_visible()
    expect(page.get_by_role("button", name="Change the flow to it")).to_be_in_viewport()
    page.get_by_role("button", name="Write it from the flow").click()
    expect(page.get_by_role("textbox", name="The flow’s specification")).to_contain_text("When it runs")


def test_who_sees_a_prompt_is_said_before_and_after(open_panel: OpenPanel, model: Cloud) -> None:
    panel = open_panel()
    there = {"provider": "openai", "config": {"url": "https://models.example/v1"}}
    here = {"provider": "openai", "config": {"url": model.url}}
    panel.api("PATCH", "/settings", {"values": {"model_upstreams": {"far": there, "cloud": here}}})
    asks = {**ASKS["nodes"][0], "config": {"prompt": "{{ payload.t }}", "models": ["cloud/small", "far/large"]}}
    panel.api("POST", "/flows", {"flow": {**ASKS, "name": "Told", "nodes": [asks]}, "id": "told", "deploy": True})
    panel.goto("/flows/told/edit")
    hand = Hand(panel, "told")
    hand.node("say").dblclick()
    expect(panel.page.get_by_test_id("sends")).to_contain_text("models.example")
    panel.shot("editor-sends")
    assert panel.accessibility() == []
    run = panel.api("POST", "/flows/told/runs", {"input": {"t": 34}, "wait": 20})["run"]
    page = panel.goto(f"/runs/{run}?step=say")
    expect(page.get_by_text("Sends what it works on to models.example")).to_be_visible()
