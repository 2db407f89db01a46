"""Two engines in one browser: paired through their panels, looked at, searched, sent flows, killed and back again.

Both are real ``flowork up`` processes. The second one's panel can be reached, so the first one knows where it is.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Locator, expect

from appliance.fleet.peers import gate
from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.broker import eventually, free_port
from tests.support.panel import HOST, OpenPanel, Panel, opened

expect.set_options(timeout=20_000)

GUARD = {
    "name": "Greenhouse guard",
    "nodes": [{"id": "ask", "type": "http_request", "config": {"url": "http://127.0.0.1:9/{{ secrets.station }}"}}],
    "edges": [],
}


def settings(name: str, port: int, **more: str) -> dict[str, str]:
    return {
        "FLOWORK_SIGN_INS_PER_MINUTE": "1000",
        "FLOWORK_AGENT_PORT": str(free_port()),
        "FLOWORK_AGENT_DISCOVERY": "false",
        "FLOWORK_PEER_DISCOVERY": "never",
        "FLOWORK_PEER_PORT": str(port),
        "FLOWORK_ENGINE_NAME": name,
        **more,
    }


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """The other engine; its panel is open to other machines, so that this one tells where it is."""
    folder: Path = tmp_path_factory.mktemp("laptop") / "FloworkData"
    with Appliance(folder, environ=settings("laptop", free_port()), host="0.0.0.0") as made:
        yield made


class Stranger(socketserver.BaseRequestHandler):
    """An engine on the network as far as a stranger sees it: asked who is there, it says so."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Network)
        if self.request.recv(len(gate.WHO), socket.MSG_WAITALL) == gate.WHO:
            self.request.sendall(json.dumps(server.facts).encode())


class Network(socketserver.ThreadingTCPServer):
    """Where one stranger listens."""

    daemon_threads = True

    def __init__(self, **facts: str) -> None:
        super().__init__(("127.0.0.1", 0), Stranger)
        self.facts = {"instance": "i", "fp": "ab" * 32, "software": "0.1.0", "models": "tiny-1b", **facts}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture(scope="module")
def strangers() -> Iterator[list[Network]]:
    """An engine that is not paired, and one whose folder was copied."""
    made = [
        Network(engine="attic00000000000", name="attic", place="a"),
        Network(engine="twin000000000000", name="twin", place="b"),
        Network(engine="twin000000000000", name="twin", place="c"),
    ]
    yield made
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory, strangers: list[Network]) -> Iterator[Appliance]:
    """This engine; multicast is off, so it asks the addresses that it was told of."""
    folder: Path = tmp_path_factory.mktemp("pi") / "FloworkData"
    listed = ",".join(each.place for each in strangers)
    with Appliance(folder, environ=settings("pi", free_port(), FLOWORK_PEERS=listed)) as made:
        yield made


@pytest.fixture(scope="module")
def laptop_owner(laptop: Appliance) -> Secret:
    return Secret(laptop.owner_key())


@pytest.fixture
def there(chromium: Browser, laptop: Appliance, laptop_owner: Secret) -> Iterator[Panel]:
    """A window at the other engine's panel."""
    window = opened(chromium, laptop, key=laptop_owner, phone=False, dark=False)
    yield window
    faults = window.unexpected()
    window.close()
    assert not faults, f"in the other page: {faults}"


def card(panel: Panel, name: str) -> Locator:
    return panel.page.locator(f"[data-engine={name}]")


def in_dialog(panel: Panel, button: str) -> None:
    panel.page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()


def more(panel: Panel, name: str, action: str) -> None:
    panel.page.get_by_role("button", name=f"More for {name}").click()
    panel.page.get_by_role("menuitem", name=action).click()


def print_of(panel: Panel, title: str) -> str:
    """A fingerprint as the dialog shows it."""
    return panel.page.get_by_role("dialog").get_by_label(title, exact=True).locator(".print").inner_text()


def pair(here: Panel, there: Panel) -> None:
    """By the panels: a code there, typed here; everything is allowed on both sides."""
    there.goto("/peers").get_by_role("button", name="Pair an engine").click()
    in_dialog(there, "Both are mine: allow everything")
    in_dialog(there, "Show the code")
    code = there.page.get_by_test_id("code").inner_text()
    here.goto("/peers").get_by_role("button", name="Pair an engine").click()
    here.page.get_by_role("tab", name="Enter a code").click()
    here.page.get_by_role("textbox", name="Code").fill(code.replace("-", " "))
    here.page.get_by_role("textbox", name="Address").fill(place(there))
    in_dialog(here, "Both are mine: allow everything")
    in_dialog(here, "Pair")
    for panel in (here, there):
        expect(panel.page.get_by_role("dialog", name="Is it this one?")).to_be_visible()


def place(panel: Panel) -> str:
    """Where that engine is called while it shows a code."""
    return re.sub(r"^.* ", "", panel.page.get_by_label("What to type there").inner_text()).replace(HOST, "127.0.0.1")


def confirmed(here: Panel, there: Panel) -> None:
    pair(here, there)
    in_dialog(here, "It is")
    in_dialog(there, "It is")
    expect(card(here, "laptop")).to_contain_text("connected")
    expect(card(there, "pi")).to_contain_text("connected")


@pytest.fixture
def paired(panel: Panel, there: Panel) -> Panel:
    """The two are paired; a test before may have seen to it."""
    panel.goto("/peers")
    expect(card(panel, "pi")).to_be_visible()
    if not any(peer["name"] == "laptop" and peer["paired"] for peer in panel.api("GET", "/peers")["items"]):
        confirmed(panel, there)
    return panel


def test_an_engine_alone_is_told_what_pairing_gives(open_panel: OpenPanel) -> None:
    panel, phone = open_panel(), open_panel(phone=True)
    for window, name in ((panel, "peers-alone"), (phone, "peers-alone-phone")):
        page = window.goto("/peers")
        expect(page.get_by_role("heading", name="No other engine is paired yet")).to_be_visible()
        expect(card(window, "pi")).to_contain_text("this engine")
        expect(card(window, "pi").get_by_text("Live flows")).to_be_visible()
        assert window.in_both_themes(name) == []


def test_who_is_on_the_network_is_found(panel: Panel) -> None:
    page = panel.goto("/peers")
    page.get_by_role("button", name="Look around").click()
    attic = page.get_by_role("listitem").filter(has_text="attic")
    expect(attic).to_contain_text("tiny-1b")
    twin = page.get_by_role("listitem").filter(has_text="twin")
    expect(twin).to_contain_text("copied")
    expect(twin).to_contain_text("flowork peer new-identity")
    expect(twin.get_by_role("button")).to_have_count(0)
    panel.shot("peers-found")
    assert panel.accessibility("main") == []
    page.get_by_role("button", name="Pair with attic").click()
    expect(page.get_by_role("dialog", name="Pair with attic").get_by_label("Address")).to_have_value(re.compile("^127"))


def test_a_code_that_is_wrong_is_said_so(panel: Panel, there: Panel) -> None:
    panel.expected = ["409", "422"]
    there.goto("/peers").get_by_role("button", name="Pair an engine").click()
    in_dialog(there, "Show the code")
    code = there.page.get_by_test_id("code").inner_text()
    panel.goto("/peers").get_by_role("button", name="Enter a code").click()
    field = panel.page.get_by_role("textbox", name="Code")
    field.fill("twelve")
    expect(panel.page.get_by_text("A code looks like")).to_be_visible()
    field.fill(code[:-1] + str((int(code[-1]) + 1) % 10))
    panel.page.get_by_role("textbox", name="Address").fill(place(there))
    in_dialog(panel, "Pair")
    expect(panel.page.get_by_role("alert")).to_contain_text("code is not right")
    expect(there.page.get_by_role("timer")).to_contain_text("The code is good for another")
    in_dialog(there, "Cancel the code")
    expect(there.page.get_by_role("dialog")).to_have_count(0)
    assert there.api("GET", "/peers/pairings")["items"] == []


def test_who_is_not_meant_is_sent_away_again(panel: Panel, there: Panel) -> None:
    pair(panel, there)
    in_dialog(panel, "That is not it: end the pairing")
    expect(panel.page.get_by_role("dialog")).to_have_count(0)
    expect(there.page.get_by_role("alert")).to_contain_text("The other side has ended the pairing")
    in_dialog(there, "End it here too")
    for window in (panel, there):
        expect(window.page.get_by_role("heading", name="No other engine is paired yet")).to_be_visible()


def test_two_are_paired_by_their_panels_and_see_who_the_other_is(panel: Panel, there: Panel) -> None:
    page = there.goto("/peers")
    page.get_by_role("button", name="Pair an engine").click()
    expect(page.get_by_role("dialog", name="Pair an engine")).to_be_visible()
    there.shot("peers-rights")
    assert there.accessibility("dialog") == []
    expect(page.get_by_role("checkbox", name="Ask the models")).to_be_checked()
    for right in ("See flows and runs", "Send events", "Run steps"):
        expect(page.get_by_role("checkbox", name=right)).not_to_be_checked()
    in_dialog(there, "Cancel")
    pair(panel, there)
    panel.shot("peers-compare")
    assert panel.accessibility("dialog") == []
    assert print_of(panel, "It calls itself") == print_of(there, "This engine")
    assert print_of(panel, "This engine") == print_of(there, "It calls itself")
    panel.page.get_by_role("textbox", name="Name").fill("Den!")
    expect(panel.page.get_by_text("Small letters, digits")).to_be_visible()
    panel.page.get_by_role("textbox", name="Name").fill("laptop")
    in_dialog(panel, "It is")
    in_dialog(there, "It is")
    expect(card(panel, "laptop")).to_contain_text("connected")
    expect(card(there, "pi")).to_contain_text("connected")
    expect(there.page.get_by_role("heading", name="No other engine")).to_have_count(0)


def test_what_the_other_one_does_is_seen_and_found(paired: Panel, there: Panel, open_panel: OpenPanel) -> None:
    there.api("PUT", "/secrets/station", {"value": "north"})
    there.api("POST", "/flows", {"flow": GUARD, "deploy": True})
    run = there.api("POST", "/flows/greenhouse-guard/runs", {})["run"]
    laptop = card(paired, "laptop")
    failed = laptop.get_by_role("link", name="Greenhouse guard")
    expect(failed).to_have_attribute("href", re.compile(rf":{there.appliance.port}/runs/{run}$"))
    expect(laptop.locator(".figures .failed")).to_contain_text("1")
    expect(laptop.get_by_text("Load")).to_be_visible()
    assert paired.in_both_themes("peers-paired") == []
    phone = open_panel(phone=True)
    phone.goto("/peers")
    expect(card(phone, "laptop").locator(".figures .failed")).to_contain_text("1")
    assert phone.in_both_themes("peers-paired-phone") == []
    search = paired.page.get_by_role("searchbox", name="Search flows and runs on all engines")
    search.fill("guard")
    found = paired.page.get_by_role("region", name="Found")
    expect(found.get_by_role("heading", name="laptop")).to_be_visible()
    expect(found.get_by_text("Greenhouse guard").first).to_be_visible()
    paired.shot("peers-search")
    assert paired.accessibility("main") == []
    search.fill("first steps")
    expect(found.get_by_role("heading")).to_have_count(2)
    search.fill("nothing is called like that")
    expect(paired.page.get_by_role("heading", name="Nothing was found")).to_be_visible()
    search.press("Escape")
    expect(laptop).to_be_visible()


def numbers(panel: Panel) -> list[int]:
    """The versions of the flow that is copied."""
    return [one["number"] for one in panel.api("GET", "/flows/cold-frame/versions")["items"]]


def test_a_flow_is_copied_with_its_versions_and_moved(paired: Panel, there: Panel) -> None:
    flow: dict[str, Any] = {**GUARD, "name": "Cold frame"}
    paired.api("PUT", "/secrets/station", {"value": "south"})
    paired.api("PUT", "/secrets/frame", {"value": "west"})
    flow["nodes"][0]["config"] = {"url": "http://127.0.0.1:9/{{ secrets.frame }}"}
    paired.api("POST", "/flows", {"flow": flow})
    paired.api("PUT", "/flows/cold-frame", {"flow": {**flow, "description": "v2"}, "base": 1})
    page = paired.goto("/flows")
    more(paired, "Cold frame", "Send to another engine…")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("To")).to_contain_text("laptop")
    expect(dialog.get_by_role("listitem").filter(has_text="frame")).to_be_visible()  # before anything is sent
    assert there.api("GET", "/flows?search=cold-frame")["items"] == []
    paired.shot("peers-send")
    assert paired.accessibility("dialog") == []
    in_dialog(paired, "Copy")
    expect(dialog).to_contain_text("with all 2 versions")
    expect(dialog.get_by_role("listitem").filter(has_text="frame")).to_be_visible()
    paired.shot("peers-sent")
    in_dialog(paired, "Done")
    numbers = [
        [one["number"] for one in panel.api("GET", "/flows/cold-frame/versions")["items"]] for panel in (paired, there)
    ]
    assert numbers[0] == numbers[1] == [2, 1]
    assert there.api("GET", "/flows/cold-frame")["live"] is None
    # From the page of engines, and so that it is off here.
    paired.api("POST", "/flows", {"flow": {**flow, "name": "Wanderer"}, "deploy": True})
    paired.goto("/peers")
    more(paired, "laptop", "Send a flow to it…")
    dialog.get_by_label("Flow").select_option(label="Wanderer")
    dialog.get_by_role("radio", name="Move").check()
    in_dialog(paired, "Move")
    expect(dialog).to_contain_text("Here it is switched off")
    assert there.api("GET", "/flows/wanderer")["live"] is None
    here = paired.api("GET", "/flows/wanderer")
    assert not here["enabled"] and here["folder"] == "moved to laptop"


def test_a_step_says_where_it_ran_and_a_node_what_it_needs(paired: Panel) -> None:
    flow = {
        "name": "Far away",
        "nodes": [{"id": "say", "type": "log", "config": {"message": "hello"}, "needs": "engine:laptop"}],
        "edges": [],
    }
    paired.api("POST", "/flows", {"flow": flow, "deploy": True})
    run = paired.api("POST", "/flows/far-away/runs", {"wait": 20})
    assert run["state"] == "succeeded", run
    page = paired.goto(f"/runs/{run['run']}?step=say")
    expect(page.get_by_test_id("ran-at")).to_contain_text("Ran on the engine laptop")
    paired.shot("peers-run")
    page = paired.goto("/flows/far-away/edit?node=say")
    page.locator("summary").filter(has_text="Failures, waiting").click()
    needs = page.get_by_label("Runs on an engine that has")
    expect(page.get_by_role("button", name="Take engine:laptop away")).to_be_visible()
    assert "engine:pi" in page.locator("datalist option").evaluate_all("all => all.map((one) => one.value)")
    needs.fill("model:nowhere-7b")
    needs.press("Enter")
    expect(page.get_by_text("No engine can do it now")).to_contain_text("model:nowhere-7b")
    paired.shot("peers-needs")
    assert paired.accessibility("aside") == []
    page.get_by_role("button", name="Take model:nowhere-7b away").click()
    expect(page.get_by_text("No engine can do it now")).to_have_count(0)


def test_a_step_that_waits_for_an_engine_is_shown(paired: Panel) -> None:
    node = {"id": "ask", "type": "log", "config": {"message": "x"}, "needs": "model:nowhere-7b"}
    paired.api("POST", "/flows", {"flow": {"name": "Patience", "nodes": [node], "edges": []}, "deploy": True})
    run = paired.api("POST", "/flows/patience/runs", {})["run"]
    page = paired.goto("/peers")
    way = page.get_by_role("region", name="On the way")
    expect(way.get_by_role("listitem")).to_contain_text("for an engine with model:nowhere-7b")
    paired.shot("peers-waits")
    assert paired.accessibility("main") == []
    paired.api("POST", f"/runs/{run}/cancel")
    expect(way).to_have_count(0)


def test_rights_are_changed_and_told_at_once(paired: Panel, there: Panel) -> None:
    paired.goto("/peers")
    card(paired, "laptop").get_by_text("Who it is").click()
    there.goto("/peers")
    more(there, "pi", "Name and rights…")
    there.page.get_by_role("checkbox", name="See flows and runs").uncheck()
    there.page.get_by_role("textbox", name="Name").fill("porch")
    in_dialog(there, "Save")
    expect(card(there, "porch")).to_be_visible()
    expect(card(paired, "laptop")).to_contain_text("What it does is not shown")
    expect(card(paired, "laptop")).not_to_contain_text(
        "see and send flows in all workspaces, send events, run steps in all"
    )
    more(there, "porch", "Name and rights…")
    there.page.get_by_role("checkbox", name="See flows and runs").check()
    there.page.get_by_role("textbox", name="Name").fill("pi")
    in_dialog(there, "Save")
    expect(card(paired, "laptop").get_by_text("Runs now")).to_be_visible()


def test_one_that_is_killed_is_away_and_comes_back(paired: Panel, laptop: Appliance, open_panel: OpenPanel) -> None:
    phone = open_panel(phone=True)
    phone.goto("/peers")
    for panel in (paired, phone):
        expect(card(panel, "laptop")).to_contain_text("connected")
    family = [psutil.Process(pid) for pid in laptop.family()]
    supervisor = psutil.Process(laptop.pid)
    for process in (supervisor, *family):
        os.kill(process.pid, signal.SIGKILL)
    laptop.stop(signal.SIGKILL)
    psutil.wait_procs(family, timeout=10)
    for panel in (paired, phone):
        expect(card(panel, "laptop").get_by_text("away", exact=True)).to_be_visible()
        expect(card(panel, "laptop").get_by_text("Runs now")).to_have_count(0)
    assert paired.in_both_themes("peers-away") == []
    assert phone.in_both_themes("peers-away-phone") == []
    laptop.start()
    for panel in (paired, phone):
        expect(card(panel, "laptop")).to_contain_text("connected", timeout=60_000)


def test_a_pairing_that_is_ended_is_shown_on_both_sides(paired: Panel, there: Panel) -> None:
    paired.goto("/peers")
    there.goto("/peers")
    more(there, "pi", "End the pairing…")
    in_dialog(there, "End the pairing")
    expect(there.page.get_by_role("heading", name="No other engine is paired yet")).to_be_visible()
    expect(card(paired, "laptop")).to_contain_text("not let in")
    expect(card(paired, "laptop").get_by_role("note")).to_contain_text("What to do")
    paired.shot("peers-refused")
    assert paired.accessibility("main") == []
    card(paired, "laptop").get_by_role("button", name="Remove it here").click()
    in_dialog(paired, "End the pairing")
    expect(card(paired, "laptop")).to_have_count(0)
    eventually(lambda: not [one for one in paired.api("GET", "/peers")["items"] if one["paired"]], "nobody is paired")


def test_the_panel_is_switched_to_the_other_engine_and_back(paired: Panel, laptop: Appliance) -> None:
    laptop.flowork("settings", "set", f"allowed_origins={paired.origin}")
    token = laptop.json("token", "create", "panel", "--scope", "admin", "--workspace", "*")["secret"]
    page = paired.goto("/peers")
    more(paired, "laptop", "Steer it from this panel…")
    page.wait_for_url(re.compile(r"/engines\?"))
    expect(page.get_by_label("Name")).to_have_value("laptop")
    expect(page.get_by_label("Address")).to_have_value(re.compile(rf":{laptop.port}$"))
    page.get_by_label("Engine token").fill(token)
    page.get_by_role("button", name="Add", exact=True).click()
    # It is known now: one press switches.
    page = paired.goto("/peers")
    more(paired, "laptop", "Steer it from this panel…")
    page.get_by_role("button", name="laptop").wait_for()
    page.goto(f"{paired.origin}/peers")
    expect(card(paired, "laptop")).to_contain_text("this engine")
    expect(card(paired, "pi")).to_contain_text("connected")
    page.get_by_role("button", name=re.compile("· laptop$")).click()
    page.get_by_role("menuitem", name="This engine").click()
    page.get_by_role("button", name=re.compile("this engine$")).wait_for()
