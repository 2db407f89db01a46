"""The page Updates: what is to be had, a file of this computer, an update over its restart, its end, and the way back.

No engine of a test is installed, so what root's updater and the sources would tell is told here; the page is real.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.panel import OpenPanel, Panel

STATE: dict[str, Any] = {"phase": "none", "version": "", "before": "", "release": "", "reason": "", "at": 0}


def release(source: str, **more: Any) -> dict[str, Any]:
    plain = {"version": "9.9", "made": 1.76e9, "kind": "wheels", "newer": True, "why_not": ""}
    return {"source": source, **plain, **more}


STICK = release("/media/stick/flowork-9.9.flowork")
UPDATE: dict[str, Any] = {
    "possible": True,
    "why_not": "",
    "waiting": False,
    "found": [],
    "sticks": [STICK],
    "fetching": None,
    "sent": None,
    "source": "",
    "looked": {"at": 0, "found": None, "error": "", "tried": ""},
    "why_no_way_back": "there is no version before this one any more",
    "steady": 300,
    "well_for": 0,
    "left": 900,
    "state": STATE,
}


class Told:
    """What the engine says of updates, and what the page has asked of it."""

    def __init__(self, panel: Panel, **first: Any) -> None:
        self.view: dict[str, Any] | None = {**UPDATE, **first}
        self.peers: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.sent = b""
        #: What the engine says to a part: None takes it.
        self.refusal: str | None = None
        self.looks: dict[str, Any] = {}
        #: What follows a change.
        self.then: dict[str, Any] = {}
        panel.page.route("**/api/v1/update**", self._answer)
        panel.page.route("**/api/v1/update/**", self._answer)
        panel.expected += ["ERR_FAILED", "422", "502"]

    def state(self, phase: str, **more: Any) -> None:
        view = {name: more.pop(name) for name in list(more) if name in UPDATE}
        self.view = {**UPDATE, "sticks": [], **view, "state": {**STATE, "phase": phase, "version": "9.9", **more}}

    def _answer(self, route: Route) -> None:
        request = route.request
        path = request.url.rpartition("/api/v1")[2]
        if request.method != "GET":
            self.asked.append((request.method, path, request.post_data_json if request.post_data else None))
        if self.view is None:
            route.abort()
        elif path == "/update/peers":
            route.fulfill(json={"items": self.peers})
        elif path == "/update/look":
            self.view |= self.looks
            route.fulfill(json=STICK)
        elif path == "/update/upload":
            self._upload(route)
        else:
            if request.method == "POST":
                self.view |= self.then
            route.fulfill(json=self.view)

    def _upload(self, route: Route) -> None:
        if route.request.method == "DELETE":
            route.fulfill(status=204)
            return
        part: Any = route.request.post_data_json
        assert part["offset"] == len(self.sent)
        if self.refusal is not None:
            problem = {"type": "/docs/errors#bad-release", "title": "No", "status": 422, "detail": self.refusal}
            route.fulfill(status=422, json=problem, content_type="application/problem+json")
            return
        self.sent += base64.b64decode(part["data"])
        whole = len(self.sent) == part["size"]
        route.fulfill(
            json={"received": len(self.sent), "size": part["size"], "found": release("sent.part") if whole else None}
        )


def confirm(page: Page, words: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=words).click()


def test_an_engine_in_a_checkout_says_how_it_is_updated(panel: Panel) -> None:
    """Nothing is told here: it is this engine's own answer."""
    page = panel.goto("/updates")
    expect(page.get_by_text("git pull")).to_be_visible()
    expect(page.get_by_role("button", name="Bring it in")).to_have_count(0)
    expect(page.get_by_role("button", name="Look now")).to_have_count(0)


def test_an_update_is_asked_for_and_followed_over_a_restart(panel: Panel) -> None:
    told = Told(panel)
    told.then = {"sticks": [], "state": {**STATE, "phase": "preparing", "version": "9.9"}}
    page = panel.goto("/updates")
    expect(page.get_by_text("flowork-9.9.flowork, on a stick")).to_be_visible()
    expect(page.get_by_text("No way back: there is no version before")).to_be_visible()
    page.get_by_label("File on this box, or address").fill("ftp://elsewhere")
    expect(page.get_by_text("begins with /")).to_be_visible()
    panel.shot("updates")
    assert panel.accessibility() == []
    page.get_by_role("button", name="Bring it in: version 9.9").click()
    confirm(page, "Bring it in")
    expect(page.get_by_role("heading", name="Bringing version 9.9 in")).to_be_visible()
    assert told.asked == [("POST", "/update", {"source": STICK["source"]})]
    expect(page.locator("[aria-current=step]")).to_contain_text("Making it ready")
    panel.shot("updates-under-way")
    assert panel.accessibility() == []
    told.view = None
    expect(page.get_by_text("The engine is being started anew")).to_be_visible()
    told.state("watching", well_for=0, left=840)
    expect(page.get_by_text("If it does not become so within 14 min")).to_be_visible(timeout=10_000)
    told.state("watching", well_for=80)
    expect(page.get_by_text("All has been well for 1 min 20 s; 3 min 40 s to go")).to_be_visible(timeout=10_000)
    assert page.get_by_role("progressbar", name="How long all has been well").get_attribute("value") == "27"
    panel.shot("updates-watching")
    assert panel.accessibility() == []
    reason = "the kernel did not answer within 15 minutes"
    told.state("rolled-back", reason=reason)
    expect(page.get_by_text("The last update was taken back")).to_be_visible(timeout=10_000)
    expect(page.get_by_text(reason, exact=False)).to_be_visible()
    panel.shot("updates-taken-back")
    assert panel.accessibility() == []


def test_a_file_of_this_computer_is_sent_shown_and_brought_in(panel: Panel, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "flowork-9.9.flowork").write_bytes(content)
    told = Told(panel, sticks=[])
    page = panel.goto("/updates")
    expect(page.get_by_text("None: no stick with a release")).to_be_visible()
    page.get_by_label("Release file").set_input_files(tmp_path / "flowork-9.9.flowork")
    row = page.locator("[data-test=release]")
    expect(row).to_contain_text("Version 9.9")
    expect(row).to_contain_text("flowork-9.9.flowork, from this computer")
    assert told.sent == content
    assert len([one for one in told.asked if one[1] == "/update/upload"]) == 3, "parts of a megabyte"
    panel.shot("updates-sent")
    assert panel.accessibility() == []
    told.then = {"waiting": True}
    row.get_by_role("button", name="Bring it in: version 9.9").click()
    confirm(page, "Bring it in")
    expect(page.get_by_text("It waits for the updater")).to_be_visible()
    assert told.asked[-1] == ("POST", "/update", {"source": ""})


def test_a_file_that_is_refused_or_stopped_is_gone_from_the_engine(panel: Panel, tmp_path: Path) -> None:
    (tmp_path / "r.flowork").write_bytes(b"x" * 5_000_000)
    told = Told(panel, sticks=[])
    told.refusal = "the release is not signed by a key that is trusted here; nothing of it was used"
    page = panel.goto("/updates")
    page.get_by_label("Release file").set_input_files(tmp_path / "r.flowork")
    expect(page.get_by_role("alert")).to_contain_text("not signed by a key that is trusted")
    assert told.asked[-1] == ("DELETE", "/update/upload", None)
    panel.shot("updates-refused-file")
    assert panel.accessibility() == []
    # A part that hangs: it is stopped by hand.
    told.refusal = None
    page.unroute("**/api/v1/update/**")
    page.route("**/api/v1/update/upload", lambda route: route.request.method == "PUT" or route.fulfill(status=204))
    page.get_by_label("Release file").set_input_files(tmp_path / "r.flowork")
    expect(page.get_by_text("Sending r.flowork: 0")).to_be_visible()
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Choose file")).to_be_visible()


def test_what_a_source_and_peers_have_is_looked_at(panel: Panel) -> None:
    where = "https://releases.example/flowork.flowork"
    told = Told(
        panel, sticks=[release("/media/s/old.flowork", why_not="it is for aarch64; this is x86_64")], source=where
    )
    told.peers = [release("peer:laptop", version="9.8", newer=False)]
    page = panel.goto("/updates")
    rows = page.locator("[data-test=release]")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("It is for aarch64")
    expect(rows.first.get_by_role("button")).to_have_count(0)
    expect(rows.last).to_contain_text("from the engine laptop")
    expect(rows.last).to_contain_text("not newer")
    told.looks = {"looked": {"at": 1.76e9, "found": release(where), "error": "", "tried": ""}}
    page.get_by_role("button", name="Look now").click()
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text(where)
    assert told.asked == [("POST", "/update/look", {"source": ""})]
    panel.shot("updates-found")
    assert panel.accessibility() == []
    told.looks = {"looked": {"at": 1.76e9, "found": None, "error": "it cannot be reached", "tried": ""}}
    page.get_by_role("button", name="Look now").click()
    expect(page.get_by_text("it cannot be reached")).to_be_visible()


def test_one_returns_to_the_version_before(panel: Panel) -> None:
    told = Told(panel)
    told.state("done", why_no_way_back="", at=1.76e9)
    told.then = {"state": {**STATE, "phase": "returning", "version": "9.9", "reason": "somebody asked for it"}}
    page = panel.goto("/updates")
    expect(page.get_by_text("The last update went well")).to_be_visible()
    # By the keyboard alone.
    page.get_by_role("button", name="Version before").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert told.asked == []
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Return to it").press("Enter")
    expect(page.get_by_text("The version before comes back: somebody asked for it")).to_be_visible()
    assert told.asked == [("POST", "/update/back", None)]


def test_why_an_engine_does_not_tell_is_shown(panel: Panel) -> None:
    panel.expected += ["503"]
    panel.page.route(
        "**/api/v1/update", lambda route: route.fulfill(status=503, json={"detail": "busy", "status": 503})
    )
    page = panel.goto("/updates")
    expect(page.get_by_text("It could not be loaded how updates stand")).to_be_visible()
    panel.page.unroute("**/api/v1/update")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("git pull")).to_be_visible()


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_the_page_is_usable_by_everybody(open_panel: OpenPanel, phone: bool) -> None:
    panel = open_panel(phone=phone)
    told = Told(panel, source="/media/stick")
    told.peers = [release("peer:laptop", version="9.8", newer=False)]
    faults = {}
    panel.goto("/updates")
    for phase, seen in [
        ("none", "Releases that are to be had"),
        ("watching", "Watching for five minutes"),
        ("written", "The new system is written"),
        ("refused", "was refused"),
    ]:
        told.state(phase, well_for=80, sticks=[STICK], why_no_way_back="", reason="it is no release")
        panel.page.reload()
        panel.page.get_by_role("main").get_by_text(seen).first.wait_for()
        faults[phase] = panel.in_both_themes(f"updates-{phase}-{'phone' if phone else 'desktop'}")
    assert {name: found for name, found in faults.items() if found} == {}
