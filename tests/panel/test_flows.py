"""The list of flows: made from examples, nothing or JSON, switched, moved, exported, deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.support.panel import ROOT, OpenPanel, Panel


def row(panel: Panel, name: str) -> Locator:
    return panel.page.get_by_role("row").filter(has_text=name)


def more(panel: Panel, name: str, action: str) -> None:
    panel.page.get_by_role("button", name=f"More for {name}").click()
    panel.page.get_by_role("menuitem", name=action).click()


@pytest.fixture
def flows(panel: Panel) -> Panel:
    panel.goto("/flows")
    expect(row(panel, "First steps")).to_be_visible()
    return panel


def test_a_flow_is_made_from_an_example(flows: Panel) -> None:
    page = flows.page
    page.get_by_role("button", name="New flow").click()
    page.get_by_role("button", name="Pantry").click()
    flows.shot("new-flow-desktop")
    assert flows.accessibility("dialog") == []
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/flows/pantry/edit")
    assert flows.api("GET", "/flows/pantry")["live"] is None


def test_a_blank_flow_is_made(flows: Panel) -> None:
    page = flows.page
    page.get_by_role("button", name="New flow").click()
    page.get_by_role("tab", name="Blank").click()
    page.get_by_label("Name").fill("My first one")
    page.get_by_label("Name").press("Enter")
    page.wait_for_url("**/flows/my-first-one/edit")


def test_an_older_export_is_converted(flows: Panel) -> None:
    older = {
        "name": "Older preset",
        "nodes": [
            {"id": "a", "module_id": "log", "config_values": {"message": "one"}},
            {"id": "b", "module_id": "log", "config_values": {"message": "two"}},
        ],
        "connections": [{"source": "a", "target": "b"}],
    }
    page = flows.page
    page.get_by_role("button", name="New flow").click()
    page.get_by_role("tab", name="From JSON").click()
    page.get_by_role("textbox", name="Flow as JSON").wait_for()
    page.get_by_label("Flow file").set_input_files(
        {"name": "older.json", "mimeType": "application/json", "buffer": json.dumps(older).encode()}
    )
    expect(page.get_by_text("Older preset")).to_be_visible()
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/flows/older-preset/edit")
    body = flows.api("GET", "/flows/older-preset")["flow"]
    assert body["nodes"][0]["type"] == "log" and body["edges"][0]["from"] == "a"


def test_json_with_faults_says_where_and_can_be_a_draft(flows: Panel) -> None:
    flows.expected = ["422"]
    broken = {"name": "Broken", "nodes": [{"id": "a", "type": "condition", "config": {}}], "edges": []}
    page = flows.page
    page.get_by_role("button", name="New flow").click()
    page.get_by_role("tab", name="From JSON").click()
    page.get_by_role("textbox", name="Flow as JSON").wait_for()
    page.get_by_label("Flow file").set_input_files(
        {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(broken).encode()}
    )
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("nodes[0].config.when")
    page.get_by_role("button", name="Save as a draft").click()
    page.wait_for_url("**/flows/broken/edit")


def test_a_flow_is_switched_run_moved_exported_and_deleted(flows: Panel) -> None:
    body = json.loads((ROOT / "examples" / "power-log.json").read_text())
    flows.api("POST", "/flows", {"flow": body, "deploy": True})
    page = flows.goto("/flows")
    switch = page.get_by_role("switch", name="Power log is on")
    expect(switch).to_be_checked()
    switch.click()
    expect(switch).not_to_be_checked()
    assert flows.api("GET", "/flows/power-log")["enabled"] is False
    switch.click()
    expect(switch).to_be_checked()

    more(flows, "Power log", "Move to folder…")
    page.get_by_label("Folder").fill("House/Cellar")
    page.get_by_label("Folder").press("Enter")
    expect(page.get_by_role("heading", name="House/Cellar")).to_be_visible()

    with page.expect_download() as download:
        more(flows, "Power log", "Export as JSON")
    exported = json.loads(Path(download.value.path()).read_text())
    assert exported["nodes"] == body["nodes"]

    more(flows, "Power log", "Duplicate")
    expect(row(flows, "Power log (copy)")).to_be_visible()
    more(flows, "Power log (copy)", "Delete…")
    assert flows.accessibility("dialog") == []
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(row(flows, "Power log (copy)")).to_have_count(0)

    row(flows, "Power log").get_by_role("button", name="Run Power log now").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url("**/runs/*")


def test_search_narrows_the_list(flows: Panel) -> None:
    page = flows.page
    page.get_by_role("searchbox", name="Search flows").fill("no such flow")
    expect(page.get_by_text("No flow is like that")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    page.get_by_role("searchbox", name="Search flows").fill("first")
    expect(row(flows, "First steps")).to_be_visible()


def test_a_run_shows_in_the_strip_at_once(flows: Panel) -> None:
    strip = row(flows, "First steps").get_by_role("link", name="Newest runs")
    before = strip.get_attribute("aria-label")
    flows.api("POST", "/flows/first-steps/runs", {})
    expect(strip).not_to_have_attribute("aria-label", before or "")


def test_the_palette_goes_anywhere_by_keyboard(flows: Panel) -> None:
    page = flows.page
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Page, flow or run id").fill("dead")
    assert flows.accessibility("dialog[open]") == []
    page.keyboard.press("Enter")
    page.wait_for_url("**/dead-letters")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_flows_are_usable_by_everybody(open_panel: OpenPanel, scheme: str, phone: bool) -> None:
    panel = open_panel(phone=phone)
    panel.theme(scheme)
    panel.goto("/flows")
    row(panel, "First steps").wait_for()
    panel.shot(f"flows-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []
    if phone:
        panel.page.get_by_role("button", name="More", exact=True).click()
        panel.shot(f"menu-phone-{scheme}")
        assert panel.accessibility("dialog[open]") == []
