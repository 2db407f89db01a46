"""One panel steers several engines: another one by its address and a token, live and all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.appliance import Appliance
from tests.support.panel import HOST, OpenPanel, Panel


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, appliance: Appliance) -> Iterator[Appliance]:
    """Another engine, which takes the first one's panel."""
    folder: Path = tmp_path_factory.mktemp("second") / "FloworkData"
    with Appliance(folder) as made:
        made.flowork("settings", "set", f"allowed_origins=http://{HOST}:{appliance.port}")
        made.flowork("flow", "delete", "first-steps", "--yes", check=False)
        yield made


def steer(panel: Panel, second: Appliance, token: str) -> None:
    page = panel.goto("/engines")
    page.get_by_label("Address").fill(f"http://{HOST}:{second.port}")
    page.get_by_label("Engine token").fill(token)
    page.get_by_label("Name").fill("Greenhouse")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Switch to it").click()


def test_another_engine_is_steered_and_left_again(open_panel: OpenPanel, second: Appliance) -> None:
    panel = open_panel()
    panel.page.add_init_script("localStorage.setItem('flowork.welcomed', 'true')")
    token = second.json("token", "create", "panel", "--scope", "admin", "--workspace", "*")["secret"]
    steer(panel, second, token)
    page = panel.page
    expect(page.locator("[data-test=health]")).to_be_visible()
    expect(page.get_by_role("button", name="Greenhouse")).to_be_visible()
    page.locator(".runs").or_(page.get_by_text("Nothing has run yet")).first.wait_for()
    answer = second.http(
        "POST",
        "/api/v1/flows?draft=true",
        {
            "flow": {
                "name": "Only there",
                "nodes": [{"id": "a", "type": "log", "config": {"message": "x"}}],
                "edges": [],
            }
        },
        {"Authorization": f"Bearer {token}"},
    )
    assert answer[0] == 201, answer
    status, started, _ = second.http("POST", "/api/v1/flows/only-there/runs", {}, {"Authorization": f"Bearer {token}"})
    assert status == 202, started
    expect(page.locator(f'a[href="/runs/{started["run"]}"]')).to_contain_text("succeeded")  # live, across origins
    page.get_by_role("button", name="Greenhouse").click()
    page.get_by_role("menuitem", name="This engine").click()
    page.wait_for_load_state()
    expect(page.get_by_role("button", name="this engine")).to_be_visible()
    panel.goto("/flows")
    expect(page.get_by_role("row").filter(has_text="First steps")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="Only there")).to_have_count(0)


def test_a_token_that_is_not_taken_is_told(open_panel: OpenPanel, second: Appliance) -> None:
    panel = open_panel()
    panel.expected = ["401"]
    steer(panel, second, "flw_aaaaaaaaaaaaa_" + "0" * 52)
    expect(panel.page.get_by_text("does not take this one")).to_be_visible()
    panel.page.get_by_role("link", name="Engines").click()
    expect(panel.page.get_by_role("heading", name="Add an engine")).to_be_visible()
