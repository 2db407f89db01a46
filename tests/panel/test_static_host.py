"""The built panel on a plain static host, pointed at an engine elsewhere by its address and a token."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.appliance import Appliance
from tests.support.panel import HOST, ROOT, OpenPanel

expect.set_options(timeout=20_000)


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        pass


@pytest.fixture
def host() -> Iterator[int]:
    """Serves the built panel's files and knows nothing else, as any web space does; its port."""
    handler = partial(_Files, directory=str(ROOT / "web" / "dist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_panel_from_elsewhere_steers_an_engine(open_panel: OpenPanel, appliance: Appliance, host: int) -> None:
    origin = f"http://{HOST}:{host}"
    appliance.flowork("settings", "set", f"allowed_origins={origin}")
    token = appliance.json("token", "create", "elsewhere", "--scope", "admin", "--workspace", "*")["secret"]
    panel = open_panel(None)
    panel.expected = ["Failed to load resource", "WebSocket connection"]
    page = panel.page
    page.add_init_script("localStorage.setItem('flowork.welcomed', 'true')")
    page.goto(origin + "/")
    page.get_by_role("link", name="Another engine").or_(page.get_by_role("link", name="Engines")).first.click()
    page.get_by_label("Address").fill(panel.origin)
    page.get_by_label("Engine token").fill(token)
    page.get_by_label("Name").fill("The box")
    page.get_by_role("button", name="Add", exact=True).click()
    panel.shot("static-host-engines")
    page.get_by_role("button", name="Switch to it").click()
    expect(page.locator("[data-test=health]")).to_be_visible()
    auth = {"Authorization": f"Bearer {token}"}
    status, started, _ = appliance.http("POST", "/api/v1/flows/first-steps/runs", {}, auth)
    assert status == 202, started
    # Live, over the WebSocket and across origins.
    row = page.locator(f'a[href$="/runs/{started["run"]}"]')
    expect(row).to_contain_text("succeeded")
    row.click()
    expect(page.get_by_test_id("run-state")).to_contain_text("succeeded")
    panel.shot("static-host-run")
    # It is still there when the page is opened anew from its beginning.
    page.goto(origin + "/")
    expect(page.locator("[data-test=health]")).to_be_visible()


def test_an_engine_that_does_not_know_the_page_refuses(open_panel: OpenPanel, appliance: Appliance, host: int) -> None:
    appliance.flowork("settings", "set", "allowed_origins=")
    token = appliance.json("token", "create", "stranger", "--scope", "admin", "--workspace", "*")["secret"]
    panel = open_panel(None)
    panel.expected = ["Failed to load resource", "WebSocket connection", "CORS"]
    page = panel.page
    page.goto(f"http://{HOST}:{host}/")
    page.get_by_role("link", name="Another engine").or_(page.get_by_role("link", name="Engines")).first.click()
    page.get_by_label("Address").fill(panel.origin)
    page.get_by_label("Engine token").fill(token)
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Switch to it").click()
    expect(page.get_by_text("The engine does not answer")).to_be_visible()
    panel.shot("static-host-refused")
