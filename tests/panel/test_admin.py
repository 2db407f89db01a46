"""Looking after a box: triggers, variables, secrets, people, tokens, the audit log, settings, health, what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from appliance.security.secret import Secret
from appliance.security.wallet import address_of, new_private_key
from tests.support.appliance import Appliance
from tests.support.panel import OpenPanel, Panel, opened

INPUTS = [
    {"name": "bed", "type": "choice", "title": "Bed", "choices": ["tomatoes", "herbs"], "required": True},
    {"name": "litres", "type": "number", "title": "Litres", "default": 5},
]
PLAN = "{'bed': payload.bed, 'limit': vars.limit, 'key': secrets.pump|length}"
SILENT = {"topic": "soil", "broker": "mqtt://127.0.0.1:9"}
GREENHOUSE = {
    "name": "Greenhouse",
    "triggers": [
        {"id": "hand", "type": "manual", "name": "Water by hand", "config": {"inputs": INPUTS}},
        {"id": "dawn", "type": "schedule", "name": "Every morning", "config": {"cron": "30 6 * * *"}},
        {"id": "hook", "type": "webhook", "name": "Rain sensor", "config": {"path": "rain-R7vTpQ2x9kLmZw4s"}},
        {"id": "gone", "type": "mqtt", "name": "Soil probe", "config": SILENT},
    ],
    "nodes": [{"id": "plan", "type": "transform", "config": {"expression": PLAN}}],
    "edges": [],
}
SIMULATED = {"driver": "sim", "config": {"name": "board", "interval": 0.2}, "events": ["pressed"]}
BOARD = {
    "name": "Has a board",
    "triggers": [{"id": "b", "type": "device", "config": SIMULATED}],
    "nodes": [{"id": "a", "type": "transform", "config": {"expression": "payload"}}],
    "edges": [],
}
NIGHTLY = ["runs:write", "runs:read", "flows:read", "events:write"]


@pytest.fixture(scope="module", autouse=True)
def box(appliance: Appliance, chromium: Any, owner: Secret) -> Iterator[None]:
    """A box that is in use: a flow with triggers, variables, secrets, people and tokens."""
    window = opened(chromium, appliance, key=owner, phone=False, dark=False)
    api = window.api
    api("PUT", "/variables/limit", {"value": 30.5})
    api("PUT", "/variables/beds", {"value": ["tomatoes", "herbs"]})
    api("PUT", "/variables/away", {"value": False})
    api("PUT", "/secrets/pump", {"value": "a pump's long password"})
    api("POST", "/flows", {"flow": GREENHOUSE, "deploy": True})
    api("POST", "/flows", {"flow": BOARD, "deploy": True})
    for name, role in (("Ada", "admin"), ("Ben", "reader")):
        # An address is hexadecimal, in which "ada" may well occur.
        keys = (address_of(new_private_key()) for _ in iter(int, 1))
        api("PUT", f"/users/{next(key for key in keys if 'ada' not in key.lower())}", {"role": role, "name": name})
    api("POST", "/tokens", {"name": "Grafana in the cellar", "scopes": ["metrics:read", "health:read"]})
    api(
        "POST",
        "/tokens?workspace=*",
        {"name": "Night job", "scopes": NIGHTLY},
    )
    window.close()
    yield


PAGES = {
    "triggers": "Rain sensor",
    "devices": "board: lamp",
    "variables": "beds",
    "secrets": "pump",
    "users": "Ada",
    "tokens": "Grafana in the cellar",
    "audit": "The log is whole",
    "settings": "Keep runs that succeeded",
    "health": "Parts",
    "about": "blinker",
    "manual": "Flowork",
    "manual/flow-format": "The flow format",
}


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_every_page_can_be_used_by_everybody(open_panel: OpenPanel, phone: bool) -> None:
    panel = open_panel(phone=phone)
    faults = {}
    for path, seen in PAGES.items():
        panel.goto(f"/{path}")
        panel.page.get_by_role("main").get_by_text(seen).first.wait_for()
        faults[path] = panel.in_both_themes(f"{path.replace('/', '-')}-{'phone' if phone else 'desktop'}")
    assert {path: found for path, found in faults.items() if found} == {}


def row(panel: Panel, name: str) -> Locator:
    return panel.page.get_by_role("row").filter(has_text=name)


def more(panel: Panel, name: str, action: str) -> None:
    panel.page.get_by_role("button", name=f"More for {name}").click()
    panel.page.get_by_role("menuitem", name=action).click()


def dialog(panel: Panel) -> Locator:
    return panel.page.get_by_role("dialog")


def steps(panel: Panel, flow: str) -> Any:
    """The output of a flow's newest run."""
    run = panel.api("POST", f"/flows/{flow}/runs", {"wait": 10, "input": {"bed": "herbs"}})
    assert run["state"] == "succeeded", run
    return run["output"]


def test_a_variable_is_made_changed_and_used(panel: Panel) -> None:
    page = panel.goto("/variables")
    page.get_by_role("button", name="New variable").click()
    page.get_by_label("Name").fill("3rd")
    expect(dialog(panel).get_by_text("no digit first")).to_be_visible()
    page.get_by_label("Name").fill("pause")
    page.get_by_label("Kind").select_option("Number")
    page.get_by_label("Value").fill("2.5")
    panel.shot("variables-dialog-desktop-light")
    assert panel.accessibility("dialog") == []
    page.get_by_role("button", name="Save").click()
    expect(row(panel, "pause")).to_contain_text("2.5")
    assert panel.api("GET", "/variables/pause")["value"] == 2.5
    page.get_by_role("button", name="limit", exact=True).click()
    page.get_by_label("Value").fill("12")
    page.get_by_label("Value").press("Enter")
    expect(row(panel, "limit")).to_contain_text("12")
    assert steps(panel, "greenhouse")["limit"] == 12
    # Deleting says who would miss it, and can be taken back.
    more(panel, "limit", "Delete")
    expect(dialog(panel)).to_contain_text("mentioned by greenhouse")
    dialog(panel).get_by_role("button", name="Delete").click()
    expect(row(panel, "limit")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(row(panel, "limit")).to_contain_text("12")


def test_a_secret_is_written_replaced_used_and_never_shown(panel: Panel) -> None:
    planted = "hunter2 planted in the panel"
    page = panel.goto("/secrets")
    page.get_by_role("button", name="New secret").click()
    page.get_by_label("Name").fill("door")
    page.get_by_label("Value").fill("abc")
    expect(dialog(panel).get_by_text("At least 4 characters")).to_be_visible()
    page.get_by_label("Value").fill("first value")
    panel.shot("secrets-dialog-desktop-light")
    assert panel.accessibility("dialog") == []
    page.get_by_role("button", name="Save").click()
    expect(row(panel, "door")).to_be_visible()
    more(panel, "pump", "Replace its value")
    page.get_by_label("New value").fill(planted)
    page.get_by_label("New value").press("Enter")
    expect(page.get_by_text("pump has a new value")).to_be_visible()
    assert steps(panel, "greenhouse")["key"] == len(planted)
    page.reload()
    expect(row(panel, "pump")).to_contain_text("Greenhouse")
    assert planted not in page.content()


def test_a_token_is_shown_once_and_opens_the_api(panel: Panel) -> None:
    page = panel.goto("/tokens")
    page.get_by_role("button", name="New token").click()
    page.get_by_label("Name").fill("Weather script")
    page.get_by_label("variables:read").check()
    dialog(panel).get_by_text("What that allows").click()
    expect(dialog(panel)).to_contain_text("The variables of a workspace by name")
    panel.shot("tokens-dialog-desktop-light")
    assert panel.accessibility("dialog") == []
    page.get_by_role("button", name="Make it").click()
    token = page.get_by_label("The token").inner_text()
    panel.shot("tokens-made-desktop-light")
    assert panel.accessibility("dialog") == []
    # Copying works without the clipboard that browsers give to secure pages only.
    assert page.evaluate("isSecureContext") is False
    dialog(panel).get_by_role("button", name="Copy").first.click()
    expect(dialog(panel).get_by_role("button", name="Copied")).to_be_visible()
    # It does not go away by accident.
    page.keyboard.press("Escape")
    expect(page.get_by_label("The token")).to_be_visible()
    page.get_by_role("button", name="I have it").click()
    headers = {"Authorization": f"Bearer {token}"}
    assert panel.appliance.http("GET", "/api/v1/variables", None, headers)[0] == 200
    assert panel.appliance.http("GET", "/api/v1/flows", None, headers)[0] == 403
    page.reload()
    expect(row(panel, "Weather script")).to_contain_text("just now")
    assert token not in page.content()
    more(panel, "Weather script", "Revoke")
    dialog(panel).get_by_role("button", name="Revoke").click()
    expect(row(panel, "Weather script")).to_have_count(0)
    assert panel.appliance.http("GET", "/api/v1/variables", None, headers)[0] == 401
    page.get_by_label("Which tokens").select_option("All, also ended")
    expect(row(panel, "Weather script")).to_contain_text("revoked")


def test_a_person_is_added_gets_an_invitation_and_can_sign_in(panel: Panel, open_panel: OpenPanel) -> None:
    key = new_private_key()
    page = panel.goto("/users")
    page.get_by_role("button", name="Add a person").click()
    page.get_by_label("Address").fill("0x12")
    expect(dialog(panel).get_by_text("An address is")).to_be_visible()
    page.get_by_label("Address").fill(address_of(key))
    page.get_by_label("Name").fill("Cleo")
    page.get_by_label("runner").check()
    dialog(panel).get_by_text("What a runner may do").click()
    expect(dialog(panel)).to_contain_text("Start a run")
    panel.shot("users-dialog-desktop-light")
    assert panel.accessibility("dialog") == []
    page.get_by_role("button", name="Add", exact=True).click()
    invitation = page.get_by_label("Invitation").inner_text()
    assert panel.origin in invitation and address_of(key) in invitation and "as a runner" in invitation
    page.get_by_role("button", name="Done").click()
    expect(row(panel, "Cleo")).to_contain_text("runner")
    # A runner sees what a runner may do, and nothing that would be refused.
    hers = open_panel(key=key)
    hers.goto("/triggers")
    expect(hers.page.get_by_text("Rain sensor")).to_be_visible()
    menu = hers.page.get_by_role("navigation").first
    expect(menu.get_by_role("link", name="Variables")).to_be_visible()
    for page_name in ("Secrets", "People", "Tokens", "Audit log", "Settings"):
        expect(menu.get_by_role("link", name=page_name)).to_have_count(0)
    hers.goto("/variables")
    expect(row(hers, "beds")).to_be_visible()
    expect(hers.page.get_by_role("button", name="New variable")).to_have_count(0)
    expect(hers.page.get_by_role("button", name="More for beds")).to_have_count(0)
    # The owner takes it away again.
    more(panel, "Cleo", "Remove")
    dialog(panel).get_by_role("button", name="Remove").click()
    expect(row(panel, "Cleo")).to_have_count(0)
    hers.expected.append("401")
    hers.page.reload()
    hers.page.wait_for_url("**/sign-in**")


def test_a_setting_is_changed_refused_reset_and_not_lost(panel: Panel) -> None:
    page = panel.goto("/settings")
    days = page.get_by_label("Keep runs that succeeded")
    days.fill("12")
    page.get_by_label("Time zone").fill("Nowhere/Land")
    panel.shot("settings-changed-desktop-light")
    page.get_by_role("link", name="Variables").click()
    expect(dialog(panel)).to_contain_text("not saved yet")
    dialog(panel).get_by_role("button", name="Stay").click()
    assert page.url.endswith("/settings")
    panel.expected.append("422")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("no time zone").first).to_be_visible()
    assert [one["value"] for one in panel.api("GET", "/settings")["settings"] if one["name"] == "keep_days"] == [30]
    page.get_by_label("Time zone").fill("Europe/Berlin")
    page.get_by_label("What is acknowledged survives").select_option("process")
    expect(page.get_by_text("1 of them holds from the next start on")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The settings are saved")).to_be_visible()
    values = {one["name"]: one["value"] for one in panel.api("GET", "/settings")["settings"]}
    assert (values["keep_days"], values["timezone"], values["durability"]) == (12, "Europe/Berlin", "process")
    page.reload()
    expect(page.get_by_label("Keep runs that succeeded")).to_have_value("12")
    for again in page.get_by_role("button", name="Back to the default").all()[::-1]:
        again.click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The settings are saved")).to_be_visible()
    assert {one["source"] for one in panel.api("GET", "/settings")["settings"]} <= {"default", "environment"}


def test_a_trigger_is_fired_by_hand_with_its_form(panel: Panel) -> None:
    page = panel.goto("/triggers")
    page.get_by_label("Search triggers").fill("water")
    expect(page.get_by_text("Rain sensor")).to_have_count(0)
    page.get_by_text("Water by hand").click()
    page.get_by_role("button", name="Fire by hand").click()
    page.get_by_label("Litres").fill("8")
    panel.shot("triggers-fire-desktop-light")
    assert panel.accessibility("dialog") == []
    panel.expected.append("422")
    dialog(panel).get_by_role("button", name="Fire").click()
    expect(dialog(panel).get_by_text("is required")).to_be_visible()
    page.get_by_label("Bed").select_option("tomatoes")
    dialog(panel).get_by_role("button", name="Fire").click()
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_url("**/runs/*")
    run = panel.api("GET", f"/runs/{page.url.rsplit('/', 1)[1]}")
    assert run["payload"] == {"bed": "tomatoes", "litres": 8} and run["trigger"] == "hand"
    page = panel.goto("/triggers")
    expect(page.get_by_text("Water by hand").locator("xpath=ancestor::summary")).to_contain_text("last")


def test_a_trigger_tells_its_address_its_times_and_why_it_cannot_start(panel: Panel) -> None:
    page = panel.goto("/triggers")
    page.get_by_text("Rain sensor").click()
    assert page.get_by_label("The webhook's address").inner_text() == f"{panel.origin}/hooks/rain-R7vTpQ2x9kLmZw4s"
    page.get_by_text("Every morning").click()
    expect(page.locator("ol > li").filter(has_text="06:30")).to_have_count(5)
    page.get_by_text("Soil probe").click()
    expect(page.get_by_text("It is tried again by itself")).to_be_visible()
    panel.shot("triggers-open-desktop-light")
    assert panel.accessibility() == []
    page.get_by_label("State").select_option("That cannot start")
    expect(page.get_by_text("Rain sensor")).to_have_count(0)
    page.get_by_label("Search triggers").fill("nothing like this")
    page.get_by_role("button", name="Show all triggers").click()
    expect(page.get_by_text("Rain sensor")).to_be_visible()


def test_the_audit_log_is_verified_filtered_and_shows_what_changed(panel: Panel) -> None:
    page = panel.goto("/audit")
    expect(page.get_by_role("heading", name="The log is whole")).to_be_visible()
    page.get_by_role("button", name="Verify again").click()
    expect(page.get_by_role("heading", name="The log is whole")).to_be_visible()
    page.get_by_label("Action").fill("user.role")
    page.get_by_label("Action").press("Enter")
    expect(row(panel, "variable.set")).to_have_count(0)
    page.get_by_label("Search entries").fill("ada")
    expect(page.get_by_role("row").filter(has=page.get_by_role("cell"))).to_have_count(1)
    page.get_by_role("button", name="user.role").click()
    expect(dialog(panel)).to_contain_text("admin")
    panel.shot("audit-entry-desktop-light")
    assert panel.accessibility("dialog") == []


def test_health_says_what_to_do(panel: Panel) -> None:
    page = panel.goto("/health")
    finding = page.get_by_role("article").filter(has_text="gone of flow greenhouse")
    expect(finding).to_contain_text("What to do")
    finding.get_by_role("link", name="See the triggers").click()
    page.wait_for_url("**/triggers")


def test_the_licence_of_a_library_can_be_read_and_nothing_is_fetched_elsewhere(panel: Panel) -> None:
    asked: list[str] = []
    panel.page.on("request", lambda request: asked.append(request.url))
    page = panel.goto("/about")
    page.get_by_label("Search libraries").fill("huey")
    page.get_by_role("button", name="Licence of huey").click()
    expect(dialog(panel)).to_contain_text("Permission is hereby granted")
    page.get_by_role("button", name="Close").last.click()
    page.get_by_label("Search libraries").fill("pinia")
    page.get_by_role("button", name="Licence of pinia").first.click()
    expect(dialog(panel)).to_contain_text("Permission is hereby granted")
    page.get_by_role("button", name="Close").last.click()
    page.get_by_role("link", name="Manual").last.click()
    page.get_by_role("link", name="How it is built").click()
    expect(page.get_by_role("img", name="Gateway and kernel")).to_be_visible()
    page.get_by_role("link", name="durability.md").first.click()
    page.wait_for_url("**/manual/durability")
    assert [url for url in asked if not url.startswith((panel.origin, "data:", "blob:"))] == []


def test_a_device_shows_its_values_live_and_does_what_it_is_told(panel: Panel) -> None:
    page = panel.goto("/devices")
    lamp = page.get_by_role("switch", name="board: lamp")
    expect(lamp).not_to_be_checked()
    lamp.click()
    expect(lamp).to_be_checked()
    lamp.click()
    expect(lamp).not_to_be_checked()
    temperature = page.get_by_role("listitem").filter(has_text="board: temperature").last
    expect(temperature).to_contain_text("°C")
    page.get_by_label("Set board: temperature").fill("31.5")
    page.get_by_label("Set board: temperature").press("Enter")
    expect(temperature).to_contain_text("31.5 °C")
    expect(temperature.get_by_role("img", name="in the last hour")).to_be_visible()
    page.get_by_role("button", name="press board: button").click()
    expect(page.get_by_role("listitem").filter(has_text="board: button").last).to_contain_text("just now")
    panel.shot("devices-live-desktop-light")
    runs = panel.api("GET", "/runs?flow=has-a-board")["items"]
    assert len(runs) == 1


def test_an_agent_is_paired_by_a_code_and_a_board_is_added(panel: Panel) -> None:
    page = panel.goto("/devices")
    page.get_by_role("button", name="Pair an agent").click()
    page.get_by_label("Name").fill("greenhouse")
    page.get_by_role("button", name="Show the code").click()
    expect(page.get_by_label("What to type there")).to_contain_text("flowork-agent pair")
    panel.shot("devices-pair-desktop-light")
    assert panel.accessibility("dialog") == []
    dialog(panel).get_by_role("button", name="Close").last.click()
    page.get_by_role("button", name="End the pairing of greenhouse").click()
    expect(page.get_by_text("may come in with its code")).to_have_count(0)
    page.get_by_role("button", name="Add a simulated board").click()
    expect(page.get_by_text("board2: lamp")).to_be_visible()
    page.get_by_role("button", name="press board2: button").click()
    expect(page.get_by_role("switch", name="board2: lamp")).to_be_checked()


def test_an_engine_that_does_not_answer_is_said_so(panel: Panel) -> None:
    panel.expected += ["500", "ERR_", "Failed to load"]
    problem = {"type": "/docs/errors#internal", "title": "Internal Server Error", "status": 500, "detail": "it broke"}
    panel.page.route("**/api/v1/tokens*", lambda route: route.fulfill(status=500, json=problem))
    page = panel.goto("/tokens")
    expect(page.get_by_role("alert")).to_contain_text("The tokens could not be loaded")
    expect(page.get_by_role("alert")).to_contain_text("it broke")
    panel.page.unroute("**/api/v1/tokens*")
    page.get_by_role("button", name="Try again").click()
    expect(row(panel, "Night job")).to_be_visible()


def test_lists_are_used_by_keyboard(panel: Panel) -> None:
    page = panel.goto("/variables")
    expect(row(panel, "beds")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("bed")
    expect(row(panel, "away")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(row(panel, "away")).to_be_visible()
    page.get_by_role("button", name="beds", exact=True).focus()
    page.keyboard.press("Enter")
    expect(dialog(panel)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog(panel)).to_have_count(0)
    expect(page.get_by_role("button", name="beds", exact=True)).to_be_focused()
