"""Welcome and Home: from nothing to a running flow in three clicks; what is well, and what needs a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.panel import ROOT, OpenPanel, Panel

WELCOMED = "localStorage.setItem('flowork.welcomed', 'true')"


def example(name: str) -> dict[str, object]:
    body: dict[str, object] = json.loads(Path(ROOT / "examples" / f"{name}.json").read_text())
    return body


@pytest.mark.parametrize("phone", [False, True])
def test_a_newcomer_has_a_running_flow_in_three_clicks(open_panel: OpenPanel, phone: bool) -> None:
    panel = open_panel(phone=phone)
    page = panel.goto("/")
    page.wait_for_url("**/welcome")
    page.get_by_role("button", name="First steps").click()
    page.get_by_role("button", name="Run it").click()
    ended = page.locator("[data-test=ended]")
    expect(ended).to_contain_text("succeeded")
    expect(ended).to_contain_text("Hello, world!")
    panel.shot(f"welcome-{'phone' if phone else 'desktop'}")
    assert panel.accessibility() == []
    page.get_by_role("link", name="See every step").click()
    page.wait_for_url("**/runs/*")
    panel.goto("/")  # it is shown once
    expect(page.locator("[data-test=health]")).to_be_visible()


def test_an_example_is_made_live_and_run(panel: Panel) -> None:
    panel.expected = ["422"]
    page = panel.goto("/welcome")
    page.get_by_role("button", name="Meter reading").click()
    page.get_by_role("button", name="Make it live and run it").click()
    expect(page.get_by_text("is required")).to_be_visible()  # the engine's own word, beside its field
    page.get_by_label("Meter").select_option("power")
    page.get_by_label("What it shows").fill("120")
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("[data-test=ended]")).to_contain_text("succeeded")
    assert panel.api("GET", "/flows/meter-reading")["live"] == 1


def test_home_says_what_needs_a_person_and_takes_the_answer(panel: Panel) -> None:
    panel.api("POST", "/flows", {"flow": example("doorbell"), "deploy": True})
    started = panel.api("POST", "/flows/doorbell/runs", {"input": {"who": "the postwoman"}})
    panel.page.add_init_script(WELCOMED)
    page = panel.goto("/")
    need = page.get_by_role("listitem").filter(has_text="Open the door?")
    expect(need).to_contain_text("the postwoman")
    panel.shot("home-needs-you-desktop")
    need.get_by_role("button", name="no").click()
    expect(need).to_have_count(0)
    story = panel.api("GET", f"/runs/{started['run']}")
    assert next(step for step in story["steps"] if step["type"] == "approval")["port"] == "no"


def test_runs_appear_as_they_happen(panel: Panel) -> None:
    panel.page.add_init_script(WELCOMED)
    page = panel.goto("/")
    expect(page.locator("[data-test=health]")).to_be_visible()
    page.get_by_role("heading", name="Newest runs").wait_for()
    page.locator(".runs").wait_for()
    started = panel.api("POST", "/flows/first-steps/runs", {})
    expect(page.locator(f'a[href="/runs/{started["run"]}"]')).to_contain_text("succeeded")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_home_is_usable_by_everybody(open_panel: OpenPanel, scheme: str, phone: bool) -> None:
    panel = open_panel(phone=phone)
    panel.theme(scheme)
    panel.page.add_init_script(WELCOMED)
    panel.goto("/")
    panel.page.locator("[data-test=health]").wait_for()
    panel.page.locator(".runs").wait_for()
    panel.shot(f"home-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []


def test_an_agent_that_is_not_paired_yet_is_on_home(open_panel: OpenPanel) -> None:
    home = open_panel()
    home.page.add_init_script("localStorage.setItem('flowork.welcomed', 'true')")
    home.api("POST", "/agents/pairings", {"name": "garage"})
    page = home.goto("/")
    expect(page.get_by_text("The agent garage is not paired yet")).to_be_visible()
    assert home.accessibility() == []
    home.api("DELETE", "/agents/pairings/garage")
