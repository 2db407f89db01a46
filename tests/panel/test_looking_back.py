"""What was learnt: a flow's page with what its runs have shown, a dry run, and what flows remember."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.panel import OpenPanel, Panel, opened
from tests.support.panel_runs import HAND, SHARE, deployed

expect.set_options(timeout=20_000)

#: A way that is never taken, and a step that fails where nobody came.
SHARES = {
    **SHARE,
    "nodes": [
        *SHARE["nodes"],
        {"id": "much", "type": "condition", "name": "Much?", "config": {"when": "payload.each > 100"}},
        {"id": "shop", "type": "log", "name": "To the shop", "config": {"message": "{{ payload.each }}"}},
    ],
    "edges": [*SHARE["edges"], {"from": "tell", "to": "much"}, {"from": "much", "to": "shop", "port": "true"}],
}
REMEMBERS = {
    "name": "Remember the weather",
    "triggers": HAND,
    "nodes": [
        {
            "id": "keep",
            "type": "memory",
            "config": {"text": "{{ payload.text }}", "outcome": "{{ payload.outcome }}", "tags": ["weather"]},
        }
    ],
    "edges": [],
}
WEATHER = [
    ("The greenhouse was 34 °C at noon; opening both windows helped.", "solved"),
    ("Frost in the night; the heater's fuse had blown.", "failed"),
    ("Rain for three days: watering was off.", "solved"),
]
NOWHERE = "http://127.0.0.1:9/{{ payload.t }}"
HOLDS = {
    "name": "Hold back",
    "triggers": HAND,
    "nodes": [
        {"id": "read", "type": "transform", "name": "Read it", "config": {"expression": "{'t': payload.t + 1}"}},
        {"id": "send", "type": "http_request", "name": "Send it", "config": {"url": NOWHERE}},
        {"id": "note", "type": "log", "name": "Note it", "config": {"message": "sent"}},
    ],
    "edges": [{"from": "read", "to": "send"}, {"from": "send", "to": "note"}],
}


@pytest.fixture(scope="module")
def flows(appliance: Appliance, chromium: Any, owner: Secret) -> Iterator[dict[str, str]]:
    """Flows that have run, by what they are for."""
    window = opened(chromium, appliance, key=owner, phone=False, dark=False)
    found = {"share": deployed(window, SHARES), "memory": deployed(window, REMEMBERS), "holds": deployed(window, HOLDS)}
    for number in range(60):
        payload = {"kg": number, "people": 3 if number % 6 else 0}
        window.api("POST", f"/flows/{found['share']}/runs", {"input": payload, "wait": 10})
    for text, outcome in WEATHER:
        payload = {"text": text, "outcome": outcome}
        ended = window.api("POST", f"/flows/{found['memory']}/runs", {"input": payload, "wait": 10})
        assert ended["state"] == "succeeded", ended
    window.close()
    yield found


def finding(panel: Panel, title: str) -> Locator:
    return panel.page.get_by_role("article").filter(has_text=title)


def test_a_flow_tells_what_its_runs_have_shown(panel: Panel, flows: dict[str, str]) -> None:
    page = panel.goto(f"/flows/{flows['share']}")
    expect(page.get_by_role("heading", name="Share the harvest")).to_be_visible()
    fails = finding(panel, "share fails in 17% of its runs")
    expect(fails).to_contain_text("division by zero")
    fails.get_by_text("The evidence").click()
    expect(fails).to_contain_text("reached60")
    fails.get_by_role("link").first.click()
    expect(page.get_by_test_id("run-state")).to_have_text("failed")
    # From a run one comes back to its flow.
    page.get_by_role("link", name="Share the harvest").click()
    finding(panel, "shop was never reached").get_by_role("button", name="Try this change").click()
    dialog = page.get_by_test_id("apply")
    expect(dialog).to_contain_text("Node shop (log)")
    panel.shot("flow-apply")
    assert panel.accessibility("dialog[open]") == []
    page.get_by_role("button", name="Save as a draft").click()
    expect(page.get_by_test_id("panel")).to_contain_text("take it out")
    saved = panel.api("GET", f"/flows/{flows['share']}")
    assert (saved["newest"], saved["live"]) == (2, 1)
    assert "shop" not in [node["id"] for node in saved["flow"]["nodes"]]


def test_a_flow_that_is_not_saved_runs_dry(panel: Panel, flows: dict[str, str]) -> None:
    page = panel.goto(f"/flows/{flows['holds']}/edit")
    page.get_by_test_id("rehearse-button").click()
    page.get_by_label("What its trigger would bring").fill('{"t": 29')
    page.get_by_test_id("rehearse").click()
    expect(page.get_by_test_id("rehearse-pane").get_by_role("alert")).to_contain_text("no JSON")
    page.get_by_label("What its trigger would bring").fill('{"t": 29}')
    page.get_by_test_id("rehearse").click()
    sent = page.locator('[data-step="send"]')
    expect(sent).to_contain_text("would do it")
    sent.locator("summary").click()
    expect(sent).to_contain_text("http://127.0.0.1:9/30")
    expect(page.locator('[data-step="note"]')).to_contain_text("guess")
    panel.shot("editor-dry-run")
    assert panel.accessibility() == []
    assert panel.api("GET", f"/runs?flow={flows['holds']}")["items"] == []


def test_what_is_remembered_is_searched_and_forgotten(panel: Panel, flows: dict[str, str]) -> None:
    page = panel.goto("/memory")
    episodes = page.locator("[data-episode]")
    expect(episodes).to_have_count(3)
    page.get_by_role("searchbox").fill("frost heater")
    expect(episodes).to_have_count(1)
    expect(episodes).to_contain_text("fits 100 %")
    episodes.get_by_role("button", name="Forget").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    page.get_by_role("button", name="Show everything").click()
    expect(episodes).to_have_count(2)
    page.get_by_label("Outcome").select_option("solved")
    page.get_by_role("button", name="Forget all that fits").click()
    page.get_by_role("button", name="Forget all of it").click()
    expect(page.get_by_text("2 episodes forgotten")).to_be_visible()
    page.get_by_role("button", name="Show everything").click()
    expect(page.get_by_text("Nothing is remembered yet")).to_be_visible()


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_these_pages_are_usable_by_everybody(open_panel: OpenPanel, flows: dict[str, str], phone: bool) -> None:
    panel = open_panel(phone=phone)
    # What another test may have forgotten by now.
    for text, outcome in WEATHER:
        panel.api("POST", f"/flows/{flows['memory']}/runs", {"input": {"text": text, "outcome": outcome}, "wait": 10})
    pages = {
        "flow": (f"/flows/{flows['share']}", "share fails in"),
        "memory": ("/memory", "Frost in the night"),
    }
    faults = {}
    for name, (path, seen) in pages.items():
        panel.goto(path)
        panel.page.get_by_role("main").get_by_text(seen).first.wait_for()
        faults[name] = panel.in_both_themes(f"{name}-{'phone' if phone else 'desktop'}")
    assert {name: found for name, found in faults.items() if found} == {}
