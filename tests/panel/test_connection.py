"""The engine goes away and comes back while the panel is open: it says so, goes on, and has lost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.appliance import Appliance
from tests.support.panel import Panel


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """An engine that these tests may stop."""
    folder: Path = tmp_path_factory.mktemp("connection") / "FloworkData"
    with Appliance(folder, environ={"FLOWORK_SIGN_INS_PER_MINUTE": "1000"}) as made:
        yield made


@pytest.fixture
def home(panel: Panel) -> Panel:
    panel.expected = ["ERR_CONNECTION", "WebSocket", "503", "Failed to load"]
    panel.page.add_init_script("localStorage.setItem('flowork.welcomed', 'true')")
    panel.goto("/")
    panel.page.locator(".runs").wait_for()
    return panel


def test_the_engine_is_stopped_and_started_again(home: Panel) -> None:
    page = home.page
    home.appliance.stop()
    expect(page.get_by_text("Not connected.")).to_be_visible()
    home.shot("not-connected-desktop")
    assert home.accessibility() == []
    home.appliance.start()
    expect(page.get_by_text("Not connected.")).to_have_count(0, timeout=30_000)
    started = home.api("POST", "/flows/first-steps/runs", {})
    expect(page.locator(f'a[href="/runs/{started["run"]}"]')).to_contain_text("succeeded")


def test_what_happened_meanwhile_is_shown_afterwards(home: Panel) -> None:
    page = home.page
    home.context.set_offline(True)
    page.evaluate("window.dispatchEvent(new Event('online'))")  # try now, in vain
    expect(page.get_by_text("Not connected.")).to_be_visible()
    missed = [home.api("POST", "/flows/first-steps/runs", {})["run"] for _ in range(3)]
    home.context.set_offline(False)
    for run in missed:
        expect(page.locator(f'a[href="/runs/{run}"]')).to_have_count(1)


def test_the_gateway_is_killed(home: Panel) -> None:
    page = home.page
    home.appliance.kill("gateway")
    started = home.api("POST", "/flows/first-steps/runs", {})
    expect(page.locator(f'a[href="/runs/{started["run"]}"]')).to_contain_text("succeeded", timeout=30_000)


def test_the_kernel_is_away(home: Panel) -> None:
    page = home.page
    home.appliance.kill("kernel", wait=False)
    expect(page.get_by_text("The kernel is away.").or_(page.get_by_text("All is well")).first).to_be_visible()
    expect(page.get_by_text("The kernel is away.")).to_have_count(0, timeout=30_000)


def test_a_page_that_is_opened_while_the_engine_is_away_says_so(home: Panel) -> None:
    page = home.page
    home.appliance.stop()
    expect(page.get_by_text("Not connected.")).to_be_visible()
    page.get_by_role("link", name="Audit log").click()
    # Its code lies on the engine as well.
    expect(page.get_by_text("Audit log cannot be opened now")).to_be_visible()
    home.appliance.start()
    expect(page.get_by_text("Not connected.")).to_have_count(0, timeout=30_000)
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("heading", name="Audit log", level=1)).to_be_visible()
