"""Talking to flows in the browser: an answer as it is made, stopping it, going on later, and the runs behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from appliance.security.secret import Secret
from appliance.security.wallet import address_of, new_private_key
from tests.support.appliance import Appliance
from tests.support.cloud import Cloud, cloud
from tests.support.panel import OpenPanel, Panel, opened

expect.set_options(timeout=20_000)

#: A model that may look at the bed, and answers.
GARDENER: dict[str, Any] = {
    "name": "Gardener",
    "triggers": [{"id": "chat", "type": "chat", "config": {"title": "The gardener", "who": "admin"}}],
    "nodes": [
        {
            "id": "think",
            "type": "ai_agent",
            "config": {
                "task": "{{ payload.text }}",
                "tools": [{"node": "soil", "about": "How wet a bed is.", "arguments": {"bed": {"type": "integer"}}}],
                "body": {"nodes": [{"id": "soil", "type": "transform", "config": {"expression": "{'wet': 0.2}"}}]},
            },
        }
    ],
    "edges": [],
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


def say(panel: Panel, text: str) -> None:
    box = panel.page.get_by_role("textbox", name="Ask")
    box.fill(text)
    box.press("Enter")


def test_a_newcomer_makes_a_chat_asks_stops_and_goes_on(panel: Panel, model: Cloud) -> None:
    page = panel.goto("/ask")
    expect(page.get_by_text("No flow can be talked to yet")).to_be_visible()
    panel.shot("ask-empty")
    assert panel.accessibility() == []
    page.get_by_role("button", name="Make one that knows this box").click()
    expect(page.get_by_role("button", name="Is all well?")).to_be_visible()
    panel.shot("ask-start")
    assert panel.accessibility() == []

    model.hold('{"answer": "I look after', ' your **flows**.\\n\\n- day\\n- night"}')
    page.get_by_role("button", name="Is all well?").click()
    making = page.get_by_test_id("making")
    expect(making).to_contain_text("I look after")
    panel.shot("ask-making")
    model.go.set()
    answer = page.get_by_test_id("answer")
    expect(answer).to_contain_text("I look after your flows.")
    expect(answer.locator("strong")).to_have_text("flows")
    expect(answer.locator("ul")).to_have_css("list-style-type", "disc")

    # The second question has the first one with it.
    model.begin_and_hang('{"answer": "Let me think')
    say(panel, "And when I sleep?")
    expect(making).to_contain_text("Let me think")
    assert "I look after your **flows**." in json.dumps(model.bodies[-1])
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    panel.shot("ask-stopped")
    assert panel.accessibility() == []

    # It is there the next day, in the list and by its address.
    address = page.url
    page.goto(address)
    expect(answer).to_contain_text("I look after your flows.")
    page.get_by_role("button", name="New").click()
    expect(page.get_by_role("button", name="Is all well?")).to_be_visible()
    page.get_by_role("navigation", name="Earlier conversations").get_by_role("link").click()
    expect(answer).to_contain_text("I look after your flows.")
    page.get_by_role("link", name="How it came about").first.click()
    page.wait_for_url("**/runs/*")


def test_the_tools_that_were_used_lead_to_their_runs(panel: Panel, model: Cloud) -> None:
    panel.api("POST", "/flows", {"flow": GARDENER, "id": "gardener", "deploy": True})
    page = panel.goto("/ask?flow=gardener")
    expect(page.get_by_role("heading", name="The gardener")).to_be_visible()
    model.say(json.dumps({"tool": "soil", "arguments": {"bed": 2}}))
    model.say(json.dumps({"answer": "Bed 2 is dry."}))
    say(panel, "Is bed 2 dry?")
    expect(page.get_by_test_id("answer")).to_have_text("Bed 2 is dry.")
    tool = page.get_by_role("link", name="soil")
    expect(tool).to_be_visible()
    panel.shot("ask-tools")
    tool.click()
    page.wait_for_url("**/runs/*")


def test_a_model_that_fails_is_told_and_the_next_question_works(panel: Panel, model: Cloud) -> None:
    page = panel.goto("/ask?flow=gardener")
    model.fail(401, "wrong key")
    say(panel, "Is anybody there?")
    expect(page.get_by_role("note")).to_contain_text("wrong key")
    model.say(json.dumps({"answer": "Now I am."}))
    say(panel, "And now?")
    expect(page.get_by_test_id("answer")).to_have_text("Now I am.")


def test_where_no_model_is_the_answer_leads_to_one(panel: Panel, model: Cloud) -> None:
    panel.api("PATCH", "/settings", {"values": {"model_upstreams": {}, "model_default": []}})
    page = panel.goto("/ask?flow=gardener")
    say(panel, "Is anybody here?")
    expect(page.get_by_role("note").last).to_contain_text("no model")
    panel.shot("ask-no-model")
    page.get_by_role("note").last.get_by_role("link", name="Get a model").click()
    expect(page.get_by_role("table", name="Models that could be here")).to_be_visible()


def test_who_may_not_ask_is_told_why(open_panel: OpenPanel, panel: Panel, model: Cloud) -> None:
    key = new_private_key()
    panel.api("PUT", f"/users/{address_of(key)}", {"role": "runner", "name": "Ben"})
    window = open_panel(key)
    page = window.goto("/ask?flow=gardener")
    expect(page.get_by_text("takes the role admin")).to_be_visible()
    expect(page.get_by_role("textbox", name="Ask")).to_be_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_asking_is_usable_on_a_phone(open_panel: OpenPanel, scheme: str, model: Cloud) -> None:
    panel = open_panel(phone=True)
    panel.theme(scheme)
    page = panel.goto("/ask?flow=ask")
    model.say(json.dumps({"answer": "Yes, and it will be until the evening."}))
    say(panel, "Is it warm enough?")
    expect(page.get_by_test_id("answer").last).to_contain_text("until the evening")
    panel.shot(f"ask-phone-{scheme}")
    assert panel.accessibility() == []
