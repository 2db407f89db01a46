"""Approvals in the panel: answered with a note, and steps decided that a crash cut off in the middle."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
from playwright.sync_api import Locator, expect

from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.panel import OpenPanel, Panel
from tests.support.panel_runs import HAND, deployed, expect_phases, reached, started


def asking(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "triggers": HAND,
        "nodes": [
            {
                "id": "ask",
                "type": "approval",
                "name": "Ask the gardener",
                "config": {"title": "Open the valve?", "text": "{{ payload.liters }} l will be used", "timeout": "2h"},
            },
            {"id": "open", "type": "log", "name": "Open it", "config": {"message": "open"}},
            {"id": "leave", "type": "log", "name": "Leave it", "config": {"message": "closed"}},
        ],
        "edges": [{"from": "ask", "to": "open", "port": "yes"}, {"from": "ask", "to": "leave", "port": "no"}],
    }


def question(panel: Panel, run: str) -> Locator:
    """The question of a run on the page of approvals."""
    return panel.page.get_by_test_id("question").filter(has=panel.page.locator(f'a[href*="{run}"]'))


def test_an_approval_is_answered_with_a_note(panel: Panel) -> None:
    flow = deployed(panel, asking("Valve"))
    page = panel.goto("/approvals")
    expect(page.get_by_text("Nothing waits for you")).to_be_visible()
    run = started(panel, flow, {"liters": 40})
    asked = question(panel, run)
    expect(asked).to_contain_text("Open the valve?")
    expect(asked).to_contain_text("40 l will be used")
    expect(asked).to_contain_text("Goes on without an answer in 2 h")
    asked.get_by_role("button", name="What it works on").click()
    expect(asked).to_contain_text("liters")
    asked.get_by_role("textbox").fill("It has not rained")
    asked.get_by_role("button", name="Yes").click()
    expect(asked).to_have_count(0)
    told = reached(panel, run, "succeeded")
    assert told["steps"][0]["output"]["approval"]["note"] == "It has not rained"
    page.goto(f"{panel.origin}/runs/{run}?step=ask")
    expect_phases(panel, ask="done", open="done", leave="skipped")
    expect(page.get_by_test_id("step-output")).to_contain_text("It has not rained")


def test_an_approval_is_answered_where_its_run_is_shown(panel: Panel) -> None:
    flow = deployed(panel, asking("Valve in its run"))
    run = started(panel, flow, {"liters": 7})
    reached(panel, run, "waiting")
    page = panel.goto(f"/runs/{run}")
    page.get_by_test_id("ask").get_by_role("button", name="No").click()
    expect(page.get_by_test_id("run-state")).to_have_text("succeeded")
    expect(page.get_by_test_id("ask")).to_have_count(0)
    expect_phases(panel, open="skipped", leave="done")


def test_who_answered_first_has_the_word(open_panel: OpenPanel) -> None:
    first, second = open_panel(), open_panel()
    second.expected.append("409")
    run = started(first, deployed(first, asking("Asked twice")), {"liters": 1})
    reached(first, run, "waiting")
    for window in (first, second):
        window.goto("/approvals")
        expect(question(window, run)).to_be_visible()
    question(first, run).get_by_role("button", name="Yes").click()
    expect(question(second, run)).to_have_count(0)


@pytest.mark.timeout(240)
def test_a_step_that_was_cut_off_is_decided(panel: Panel, appliance: Appliance) -> None:
    shell = {"id": "pour", "type": "command", "name": "Pour the water", "config": {"shell": "sleep 60"}}
    after = {"id": "after", "type": "log", "name": "Note it", "config": {"message": "poured"}}
    body = {"name": "Pour", "triggers": HAND, "nodes": [shell, after], "edges": [{"from": "pour", "to": "after"}]}
    run = started(panel, deployed(panel, body))

    def begun() -> bool:
        kernel = psutil.Process(appliance.pids()["kernel"])
        return any(child.name() == "sleep" for child in kernel.children(recursive=True))

    eventually(begun, "the water to pour")
    panel.expected += ["503", "502", "WebSocket"]
    appliance.kill("kernel")
    page = panel.goto("/approvals")
    asked = question(panel, run)
    expect(asked).to_contain_text("happen?", timeout=30_000)
    page.goto(f"{panel.origin}/runs/{run}")
    expect_phases(panel, pour="unverified")
    panel.shot("run-unverified")
    page.get_by_role("button", name="It happened: go on behind it").click()
    expect(page.get_by_test_id("run-state")).to_have_text("succeeded")
    expect_phases(panel, after="done")


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_the_pages_are_usable_by_everybody(open_panel: OpenPanel, phone: bool) -> None:
    panel = open_panel(phone=phone)
    flow = deployed(panel, asking(f"Valve on a {'phone' if phone else 'desk'}"))
    run = started(panel, flow, {"liters": 3})
    reached(panel, run, "waiting")
    faults = {}
    for name, path in {"approvals": "/approvals", "run-asks": f"/runs/{run}"}.items():
        page = panel.goto(path)
        page.get_by_test_id("ask").first.wait_for()
        faults[name] = panel.in_both_themes(f"{name}-{'phone' if phone else 'desktop'}")
    assert {name: found for name, found in faults.items() if found} == {}
    panel.api("POST", f"/approvals/{run}/ask/answer", {"answer": "no"})
