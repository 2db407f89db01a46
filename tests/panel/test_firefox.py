"""The panel in Debian's Firefox, where that is installed: every page, signing in, a flow that is drawn, live events."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.firefox import PROGRAM, Firefox
from tests.support.panel import HOST, SCREENS, Panel, opened
from tests.support.panel_runs import SHARE, deployed

pytestmark = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="Firefox is not installed (firefox-esr)")

ENTER, ESCAPE, ARROW_RIGHT = "\ue007", "\ue00c", "\ue014"
_FILL = """(label, text) => {
  const field = [...document.querySelectorAll('label')].find((one) => one.textContent.includes(label))
  const input = document.getElementById(field.htmlFor)
  input.value = text
  input.dispatchEvent(new Event('input', { bubbles: true }))
}"""
#: Presses a button, once that can be pressed.
_CLICK = """(text, among = 'button') => {
  const button = [...document.querySelectorAll(among)].find((one) => one.textContent.trim() === text && !one.disabled)
  button?.click()
  return button !== undefined
}"""
#: The middle of a node on the canvas.
_PLACE = """(name) => {
  const box = document.querySelector(`[data-node="${name}"]`).getBoundingClientRect()
  return [box.x + box.width / 2, box.y + box.height / 2]
}"""
#: The addresses of the menu, once they are all there.
_MENU = """() => {
  const links = [...document.querySelectorAll('aside nav a')].map((a) => a.getAttribute('href'))
  return links.length > 15 ? links : null
}"""
_SETTLED = """() => document.querySelector('main h1, main h2, [data-testid=editor]') !== null
  && document.querySelector('.skeleton') === null"""


@pytest.fixture(scope="module")
def api(chromium: Browser, appliance: Appliance, owner: Secret) -> Iterator[Panel]:
    """The API as the owner, who has a flow with runs."""
    window = opened(chromium, appliance, key=owner, phone=False, dark=False)
    yield window
    window.close()


@pytest.fixture(scope="module")
def firefox() -> Iterator[Firefox]:
    with Firefox(HOST) as started:
        yield started


@pytest.fixture
def signed_in(firefox: Firefox, api: Panel) -> Firefox:
    for cookie in api.context.cookies(api.origin):
        firefox.set_cookie(cookie["name"], cookie["value"], HOST)
    firefox.goto(f"{api.origin}/engines")
    firefox.evaluate("() => localStorage.setItem('flowork.welcomed', 'true')")
    return firefox


def test_a_key_signs_in_on_a_page_over_plain_http(firefox: Firefox, api: Panel, owner: Secret) -> None:
    firefox.goto(f"{api.origin}/sign-in")
    firefox.wait("() => document.querySelector('input, textarea') !== null")
    assert firefox.evaluate("() => [isSecureContext, 'subtle' in crypto]") == [False, False]
    firefox.evaluate(_FILL, "Private key", owner.reveal())
    firefox.wait(_CLICK, "Sign in", what="the button")
    firefox.wait("() => !location.pathname.startsWith('/sign-in')", what="to be signed in")


def test_every_page_opens_without_a_fault(signed_in: Firefox, api: Panel) -> None:
    flow = deployed(api, SHARE)
    run = api.api("POST", f"/flows/{flow}/runs", {"input": {"kg": 7, "people": 0}, "wait": 10})["run"]
    signed_in.goto(f"{api.origin}/")
    signed_in.wait(_SETTLED, what="Home")
    # The menu grows when the page knows what this engine can do.
    links = signed_in.wait(_MENU, what="the whole menu")
    faults: dict[str, Any] = {}
    for path in [*links, f"/flows/{flow}", f"/flows/{flow}/edit", f"/runs/{run}", "/welcome", "/engines"]:
        signed_in.faults.clear()
        signed_in.goto(api.origin + path)
        signed_in.wait(_SETTLED, what=path)
        signed_in.shot(SCREENS / f"firefox{path.replace('/', '-')}.png")
        found = list(signed_in.faults)
        if signed_in.evaluate("() => document.documentElement.scrollWidth > innerWidth"):
            found.append("too wide")
        faults[path] = found
    assert {path: found for path, found in faults.items() if found} == {}


def test_what_happens_is_seen_live(signed_in: Firefox, api: Panel) -> None:
    signed_in.goto(f"{api.origin}/runs")
    signed_in.wait(_SETTLED, what="the runs")
    run = api.api("POST", "/flows/first-steps/runs", {"wait": 10})["run"]
    told = "(run) => document.querySelector(`[data-key=\"${run}\"]`)?.textContent.includes('succeeded')"
    signed_in.wait(told, run, what="the run")


def test_a_flow_is_drawn_with_keys_and_mouse_and_deployed(signed_in: Firefox, api: Panel) -> None:
    hand = [{"id": "hand", "type": "manual", "config": {}}]
    body = {"name": "Drawn in Firefox", "triggers": hand, "nodes": [], "edges": []}
    flow = api.api("POST", "/flows?draft=true", {"flow": body})["id"]
    signed_in.goto(f"{api.origin}/flows/{flow}/edit")
    signed_in.wait("() => document.activeElement?.dataset.testid === 'canvas'", what="the canvas")
    for word in ("merge", "throttle"):
        signed_in.press(*word)
        signed_in.wait("() => document.querySelector('[role=listbox] [role=option]') !== null", what="the list")
        signed_in.press(ENTER)
        cards = '(word) => document.querySelector(`[data-node^="${word}"]`) !== null'
        signed_in.wait(cards, word, what=f"the node {word}")
    # With the mouse, elsewhere.
    x, y = signed_in.evaluate(_PLACE, "throttle")
    signed_in.drag((x, y), (x + 40, y + 120))
    signed_in.wait(f"(name, y) => ({_PLACE})(name)[1] > y + 60", "throttle", y, what="the node to be moved")
    signed_in.shot(SCREENS / "firefox-drawn.png")
    signed_in.evaluate("() => document.querySelector('[data-testid=deploy]').click()")
    signed_in.see("What is this change about?", "dialog")
    signed_in.wait(_CLICK, "Deploy", "dialog[open] button", what="the button")
    signed_in.wait("() => document.querySelector('[data-testid=status]').textContent.includes('is live')")
    saved = api.api("GET", f"/flows/{flow}")["flow"]
    assert [node["type"] for node in saved["nodes"]] == ["merge", "throttle"]
    assert [(edge["from"], edge["to"]) for edge in saved["edges"]] == [("merge", "throttle")]
    assert urllib.parse.urlsplit(signed_in.evaluate("() => location.href")).path == f"/flows/{flow}/edit"
