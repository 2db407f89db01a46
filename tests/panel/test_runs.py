"""Runs in the panel: the list, one run at any moment of its life, replaying it, comparing two."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.support.appliance import Appliance
from tests.support.panel import OpenPanel, Panel
from tests.support.panel_runs import (
    BEDS,
    HARVEST,
    SHARE,
    card,
    deployed,
    expect_phases,
    fill_json,
    reached,
    started,
)


@pytest.fixture(scope="module")
def flows(appliance: Appliance) -> dict[str, str]:
    """Ids of flows that several tests use, by name; filled as they are made."""
    return {}


@pytest.fixture
def harvest(panel: Panel, flows: dict[str, str]) -> str:
    if "harvest" not in flows:
        flows["harvest"] = deployed(panel, HARVEST)
    return flows["harvest"]


@pytest.fixture
def share(panel: Panel, flows: dict[str, str]) -> str:
    if "share" not in flows:
        flows["share"] = deployed(panel, SHARE)
    return flows["share"]


@pytest.fixture
def parked(panel: Panel, harvest: str) -> Iterator[str]:
    """A run that waits for its scales."""
    run = started(panel, harvest, BEDS)
    reached(panel, run, "waiting")
    yield run
    panel.api("POST", "/events", {"name": "weighed", "payload": {"kg": 0}})


def test_a_run_is_watched_live(panel: Panel, parked: str) -> None:
    page = panel.goto(f"/runs/{parked}")
    expect(page.get_by_test_id("run-state")).to_have_text("waiting")
    expect_phases(panel, beds="done", each="done", scales="waiting")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    panel.api("POST", "/events", {"name": "weighed", "payload": {"kg": 9}})
    expect(page.get_by_test_id("run-state")).to_have_text("succeeded")
    expect_phases(panel, scales="done", enough="done", sell="done", keep="skipped")


def test_a_run_is_rewound_and_the_moment_can_be_sent(open_panel: OpenPanel, panel: Panel, parked: str) -> None:
    panel.api("POST", "/events", {"name": "weighed", "payload": {"kg": 9}})
    reached(panel, parked, "succeeded")
    page = panel.goto(f"/runs/{parked}")
    moment = page.get_by_test_id("moment")
    expect(moment).to_have_text("The run is over")
    page.keyboard.press("Home")
    expect(moment).to_have_text("The run was accepted")
    expect_phases(panel, beds="pending", each="pending")
    page.keyboard.press("ArrowRight")
    expect(moment).to_have_text("List the beds begins")
    expect_phases(panel, beds="running")
    page.keyboard.press("ArrowRight")
    expect_phases(panel, beds="done", each="pending")
    card(panel, "each").click()
    expect(page.get_by_test_id("step-pane")).to_contain_text("the step has not begun")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect_phases(panel, each="done", scales="pending")
    expect(page.get_by_test_id("step-output")).to_contain_text("3000")
    other = open_panel()
    other.page.goto(page.url)
    expect(other.page.get_by_test_id("moment")).to_have_text(moment.inner_text())
    expect_phases(other, each="done", scales="pending")
    expect(other.page.get_by_test_id("step-output")).to_contain_text("3000")
    page.get_by_test_id("play").click()
    expect(moment).to_have_text("The run is over", timeout=30_000)


def test_the_chart_leads_to_steps_and_moments(panel: Panel, parked: str) -> None:
    panel.api("POST", "/events", {"name": "weighed", "payload": {"kg": 1}})
    reached(panel, parked, "succeeded")
    page = panel.goto(f"/runs/{parked}")
    rows = page.get_by_test_id("gantt").locator("[data-step]")
    expect(rows).to_have_count(5)
    rows.nth(1).click()
    expect(page.get_by_test_id("step-pane")).to_contain_text("Weigh each bed")
    page.keyboard.press("j")
    expect(page.get_by_test_id("step-pane")).to_contain_text("Wait for the scales")
    page.get_by_role("tab", name="Log").first.click()
    expect(page.get_by_test_id("log").first).to_contain_text("too little")


def test_children_are_one_click_away(panel: Panel, parked: str) -> None:
    page = panel.goto(f"/runs/{parked}?tab=items")
    items = page.get_by_test_id("children").get_by_role("link")
    expect(items).to_have_count(3)
    items.nth(1).click()
    expect(page.get_by_role("link", name="item 2 of a run")).to_be_visible()
    expect_phases(panel, weigh="done", note="done")
    page.get_by_role("link", name="item 2 of a run").click()
    expect_phases(panel, scales="waiting")


def test_a_payload_is_edited_and_replayed(panel: Panel, share: str) -> None:
    run = started(panel, share, {"kg": 12, "people": 0})
    reached(panel, run, "failed")
    page = panel.goto(f"/runs/{run}")
    expect(page.get_by_test_id("run-error")).to_contain_text("Share it out")
    expect(page.get_by_test_id("step-pane")).to_contain_text("Share it out")
    page.get_by_test_id("replay-here").click()
    dialog = page.locator("dialog[open]")
    fill_json(panel, "{broken")
    expect(dialog.get_by_test_id("replay-go")).to_be_disabled()
    fill_json(panel, json.dumps({"kg": 12, "people": 4}))
    dialog.get_by_test_id("replay-go").click()
    expect(page.get_by_role("link", name=f"replay of {run}")).to_be_visible()
    expect(page.get_by_test_id("run-state")).to_have_text("succeeded")
    expect_phases(panel, read="kept", share="done", tell="done")
    assert panel.api("GET", f"/runs/{run}")["letter"] == "replayed"
    made = page.url.rsplit("/", 1)[1]
    page.goto(f"{panel.origin}/runs/{run}/compare/{made}")
    expect(page.get_by_text("2 of 3 steps differ.").or_(page.get_by_text("3 of 3 steps differ."))).to_be_visible()
    page.get_by_role("button", name="Share it out").click()
    expect(page.get_by_test_id("diff").last).to_contain_text('"people": 4')
    assert panel.accessibility() == []
    panel.shot("runs-compare")


def test_two_steps_are_compared(panel: Panel, share: str) -> None:
    run = started(panel, share, {"kg": 12, "people": 3})
    reached(panel, run, "succeeded")
    page = panel.goto(f"/runs/{run}?step=share")
    page.get_by_test_id("step-pane").get_by_role("button", name="Compare").click()
    diff = page.get_by_test_id("diff")
    expect(diff).to_contain_text('"people": 3')
    expect(diff).to_contain_text('"each": 4')


def test_a_run_under_way_is_cancelled(panel: Panel, harvest: str) -> None:
    run = started(panel, harvest, BEDS)
    reached(panel, run, "waiting")
    page = panel.goto(f"/runs/{run}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.get_by_test_id("run-state")).to_have_text("cancelled")
    expect_phases(panel, scales="stopped", enough="stopped")


def test_a_large_value_is_fetched_when_it_is_wanted(panel: Panel) -> None:
    large = {"id": "large", "type": "transform", "config": {"expression": "{'rows': [range(99999) | list] * 5}"}}
    flow = deployed(panel, {**HARVEST, "name": "Large", "nodes": [large], "edges": []})
    run = started(panel, flow)
    reached(panel, run, "succeeded")
    page = panel.goto(f"/runs/{run}?step=large")
    output = page.get_by_test_id("step-output")
    expect(output).to_contain_text("A large value, 1.")
    output.get_by_role("button", name="Show it").click()
    expect(output).to_contain_text("rows")
    expect(output.get_by_role("button", name="Show it")).to_have_count(0)


def test_a_run_is_saved_as_a_file(panel: Panel, share: str) -> None:
    run = started(panel, share, {"kg": 1, "people": 1})
    reached(panel, run, "succeeded")
    page = panel.goto(f"/runs/{run}")
    page.get_by_role("button", name="More about this run").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Download as JSON").click()
    told = json.loads(saved.value.path().read_text())
    assert (told["id"], told["steps"][1]["output"]) == (run, {"each": 1})


def test_the_list_follows_filters_and_live_runs(panel: Panel, share: str, harvest: str) -> None:
    good = started(panel, share, {"kg": 3, "people": 3})
    bad = started(panel, share, {"kg": 7, "people": 0})
    reached(panel, bad, "failed")
    page = panel.goto(f"/runs?flow={share}")
    rows = page.locator("[data-run]")
    expect(page.locator(f'[data-run="{good}"]')).to_be_visible()
    expect(rows.first).to_have_attribute("data-run", bad)
    page.get_by_role("button", name="failed").click()
    expect(page.locator(f'[data-run="{good}"]')).to_have_count(0)
    assert "state=failed" in page.url
    page.get_by_role("button", name="failed").click()
    new = started(panel, share, {"kg": 5, "people": 5})
    expect(rows.first).to_have_attribute("data-run", new)
    expect(page.locator(f'[data-key="{new}"]')).to_contain_text("succeeded")
    page.get_by_role("searchbox").fill("no such text anywhere")
    expect(page.get_by_text("No run matches")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect(rows.first).to_be_visible()
    assert page.url.endswith("/runs")


def test_what_comes_while_one_reads_is_held_back(panel: Panel, share: str) -> None:
    first = started(panel, share, {"kg": 3, "people": 3})
    reached(panel, first, "succeeded")
    page = panel.goto(f"/runs?flow={share}")
    expect(page.locator("[data-run]").first).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator("a.row-link").first).to_be_focused()
    new = started(panel, share, {"kg": 4, "people": 4})
    page.get_by_test_id("fresh").click()
    expect(page.locator("[data-run]").first).to_have_attribute("data-run", new)


def test_runs_are_selected_by_key_and_replayed_together(panel: Panel, share: str) -> None:
    runs = [started(panel, share, {"kg": kg, "people": 2}) for kg in (2, 4)]
    for run in runs:
        reached(panel, run, "succeeded")
    page = panel.goto(f"/runs?flow={share}")
    expect(page.locator("[data-run]").first).to_have_attribute("data-run", runs[1])
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    expect(page.get_by_test_id("bulk")).to_contain_text("2 selected")
    page.get_by_test_id("bulk").get_by_role("button", name="Replay").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    expect(page.get_by_text("2 runs replayed")).to_be_visible()
    made = panel.api("GET", f"/runs?flow={share}&limit=2")["items"]
    assert {run["origin"] for run in made} == set(runs)
    expect(page.locator("[data-run]").first).to_have_attribute("data-run", made[0]["id"])
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("run-state")).to_be_visible()


def test_a_long_list_has_few_rows_in_the_page(panel: Panel) -> None:
    body = {"nodes": [{"id": "x", "type": "transform", "config": {"expression": "payload"}}], "edges": []}
    each = {
        "id": "each",
        "type": "for_each",
        "config": {"items": "range(payload) | list", "body": body, "concurrency": 50},
    }
    many = deployed(panel, {"name": "Many", "triggers": HARVEST["triggers"], "nodes": [each], "edges": []})
    reached(panel, started(panel, many, 450), "succeeded")
    page = panel.goto(f"/runs?flow={many}&children=1")
    rows = page.locator("[data-run]")
    expect(rows.first).to_be_visible()
    for _ in range(8):
        page.mouse.wheel(0, 6000)
        page.wait_for_function("() => new Promise((done) => requestAnimationFrame(() => done(true)))")
    expect(page.locator('[data-index="449"]')).to_be_visible()
    assert rows.count() < 160


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_the_pages_are_usable_by_everybody(open_panel: OpenPanel, phone: bool) -> None:
    panel = open_panel(phone=phone)
    flow = deployed(panel, SHARE, f"Looked at on a {'phone' if phone else 'desk'}")
    run = started(panel, flow, {"kg": 7, "people": 0})
    reached(panel, run, "failed")
    harvest = deployed(panel, HARVEST, f"Harvest on a {'phone' if phone else 'desk'}")
    waits = started(panel, harvest, BEDS)
    reached(panel, waits, "waiting")
    pages = {
        "runs": "/runs",
        "run": f"/runs/{run}",
        "run-waits": f"/runs/{waits}",
        "run-data": f"/runs/{waits}?tab=data",
    }
    faults = {}
    for name, path in pages.items():
        page = panel.goto(path)
        page.locator("[data-run], [data-testid=run-state]").first.wait_for()
        if name != "runs":
            page.locator('[data-testid="run-canvas"] [data-node]').first.wait_for()
        faults[name] = panel.in_both_themes(f"{name}-{'phone' if phone else 'desktop'}")
    assert {name: found for name, found in faults.items() if found} == {}
    panel.api("POST", f"/runs/{waits}/cancel")


def test_what_is_not_there_is_said(panel: Panel) -> None:
    panel.expected.append("404")
    page = panel.goto("/runs/0000000000000")
    expect(page.get_by_text("The run could not be loaded")).to_be_visible()
    page = panel.goto("/runs?flow=no-such-flow")
    expect(page.get_by_text("No run matches")).to_be_visible()
