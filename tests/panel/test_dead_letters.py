"""Dead letters in the panel: looked at, mended and replayed, discarded with a reason; one and many."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.support.appliance import Appliance
from tests.support.panel import OpenPanel, Panel
from tests.support.panel_runs import SHARE, deployed, fill_json, reached, started


def failing(panel: Panel, name: str, count: int = 1) -> tuple[str, list[str]]:
    """A flow of this name, and runs of it that failed for good."""
    flow = deployed(panel, SHARE, name)
    runs = [started(panel, flow, {"kg": kg + 1, "people": 0}) for kg in range(count)]
    for run in runs:
        reached(panel, run, "failed")
    return flow, runs


def test_a_letter_is_mended_and_replayed(panel: Panel) -> None:
    flow, (run,) = failing(panel, "Mended")
    page = panel.goto(f"/dead-letters?flow={flow}")
    page.locator(f'[data-run="{run}"]').click()
    letter = page.get_by_test_id("letter")
    expect(letter.get_by_test_id("letter-error")).to_contain_text("Share it out")
    expect(letter).to_contain_text("people")
    letter.get_by_test_id("letter-replay").click()
    fill_json(panel, json.dumps({"kg": 8, "people": 2, "day": "sunday"}))
    page.get_by_test_id("replay-go").click()
    expect(page.get_by_test_id("run-state")).to_have_text("succeeded")
    assert panel.api("GET", f"/dead-letters?flow={flow}")["items"] == []
    page.goto(f"{panel.origin}/dead-letters?flow={flow}&letter=replayed")
    expect(page.locator(f'[data-run="{run}"]')).to_be_visible()


def test_a_letter_is_discarded_with_a_reason(panel: Panel) -> None:
    flow, (run,) = failing(panel, "Discarded")
    page = panel.goto(f"/dead-letters?flow={flow}&run={run}")
    page.get_by_test_id("letter").get_by_role("button", name="Discard").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Discard")).to_be_disabled()
    dialog.get_by_role("textbox").fill("Nobody was there to share with")
    dialog.get_by_role("button", name="Discard").click()
    expect(page.get_by_text("None here")).to_be_visible()
    page.get_by_role("tab", name="Discarded").click()
    page.locator(f'[data-run="{run}"]').click()
    expect(page.get_by_test_id("letter")).to_contain_text("Nobody was there to share with")
    expect(page.get_by_test_id("letter-replay")).to_have_count(0)


def test_many_are_replayed_on_the_version_that_was_mended(panel: Panel) -> None:
    flow, runs = failing(panel, "Many mended", 30)
    share = {**SHARE["nodes"][1], "config": {"expression": "{'each': payload.kg / [payload.people, 1] | max}"}}
    mended = {**SHARE, "name": "Many mended", "nodes": [SHARE["nodes"][0], share, SHARE["nodes"][2]]}
    panel.api("PUT", f"/flows/{flow}", {"flow": mended, "base": 1, "deploy": True})
    page = panel.goto(f"/dead-letters?flow={flow}")
    expect(page.locator("[data-run]").first).to_be_visible()
    page.get_by_role("checkbox", name="Select all that are loaded").check()
    bulk = page.get_by_test_id("bulk")
    expect(bulk).to_contain_text("30 selected")
    bulk.get_by_role("button", name="Replay").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    expect(page.get_by_text("30 runs replayed")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("None here")).to_be_visible()
    made = panel.api("GET", f"/runs?flow={flow}&limit=100")["items"]
    assert {run["origin"] for run in made} >= set(runs)
    assert {run["version"] for run in made if run["origin"]} == {2}


def test_many_are_discarded_together(panel: Panel) -> None:
    flow, runs = failing(panel, "Many discarded", 3)
    page = panel.goto(f"/dead-letters?flow={flow}")
    expect(page.locator(f'[data-run="{runs[2]}"]')).to_be_visible()
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    page.get_by_test_id("bulk").get_by_role("button", name="Discard").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("A test of the scales")
    page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    expect(page.get_by_text("2 runs discarded")).to_be_visible()
    expect(page.locator("[data-run]")).to_have_count(1)
    expect(page.locator(f'[data-run="{runs[0]}"]')).to_be_visible()


def test_a_new_letter_appears_by_itself(panel: Panel) -> None:
    flow, _ = failing(panel, "Appearing")
    page = panel.goto(f"/dead-letters?flow={flow}")
    expect(page.locator("[data-run]")).to_have_count(1)
    run = started(panel, flow, {"kg": 9, "people": 0})
    expect(page.locator("[data-run]").first).to_have_attribute("data-run", run)


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_the_pages_are_usable_by_everybody(open_panel: OpenPanel, appliance: Appliance, phone: bool) -> None:
    panel = open_panel(phone=phone)
    flow, runs = failing(panel, f"Letters on a {'phone' if phone else 'desk'}", 3)
    pages = {
        "dead-letters": f"/dead-letters?flow={flow}",
        "dead-letter": f"/dead-letters?flow={flow}&run={runs[0]}",
        "dead-letters-none": f"/dead-letters?flow={flow}&letter=replayed",
    }
    faults = {}
    for name, path in pages.items():
        page = panel.goto(path)
        page.locator("[data-run]").or_(page.get_by_text("None here")).first.wait_for()
        if name == "dead-letter":
            page.get_by_test_id("letter-error").wait_for()
        faults[name] = panel.in_both_themes(f"{name}-{'phone' if phone else 'desktop'}")
    assert {name: found for name, found in faults.items() if found} == {}
