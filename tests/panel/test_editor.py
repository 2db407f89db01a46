"""The editor in a real browser: flows drawn with the mouse and with the keyboard alone, deployed, and brought back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.hand import Hand
from tests.support.panel import OpenPanel, Panel

Open = Callable[..., Hand]

# The engine answers in milliseconds; a busy machine does not.
expect.set_options(timeout=15_000)

GUARD: dict[str, Any] = {
    "name": "Greenhouse guard",
    "triggers": [{"id": "m", "type": "manual", "config": {}}],
    "nodes": [
        {
            "id": "read",
            "type": "transform",
            "config": {"expression": "{'t': payload.t | default(20), 'room': 'greenhouse'}"},
            "position": {"x": 320, "y": 80},
        },
        {"id": "hot", "type": "condition", "config": {"when": "payload.t > 30"}, "position": {"x": 640, "y": 80}},
        {
            "id": "say",
            "type": "log",
            "name": "Warn the gardener",
            "config": {"message": "It is {{ payload.t }} °C in the {{ payload.room }}"},
            "position": {"x": 960, "y": 20},
        },
        {"id": "fine", "type": "log", "config": {"message": "All is well"}, "position": {"x": 960, "y": 180}},
    ],
    "edges": [
        {"from": "read", "to": "hot"},
        {"from": "hot", "to": "say", "port": "true"},
        {"from": "hot", "to": "fine", "port": "false"},
    ],
}


def flow_of(panel: Panel, flow: str) -> dict[str, Any]:
    """The newest version as the engine has it."""
    found: dict[str, Any] = panel.api("GET", f"/flows/{flow}")["flow"]
    return found


@pytest.fixture
def edit(open_panel: OpenPanel) -> Open:
    """Saves a flow and opens the editor on it: ``edit({"nodes": [...]}, deploy=True)``."""

    def make(body: dict[str, Any], *, deploy: bool = False, panel: Panel | None = None, **window: Any) -> Hand:
        panel = panel or open_panel(**window)
        body = {"name": "Flow", "nodes": [], **body}
        made = panel.api("POST", f"/flows?draft={json.dumps(not deploy)}", {"flow": body, "deploy": deploy})
        return reopen(panel, made["id"])

    return make


def reopen(panel: Panel, flow: str) -> Hand:
    """The editor on a flow that there is."""
    panel.goto(f"/flows/{flow}/edit")
    hand = Hand(panel, flow)
    expect(hand.canvas).to_be_visible()
    return hand


def test_a_flow_is_drawn_with_the_mouse_and_runs(edit: Open) -> None:
    hand = edit({"name": "By mouse"})
    page = hand.page
    hand.drop_kind("trigger manual", 0.15, 0.4)
    hand.drop_kind("node transform", 0.4, 0.4)
    hand.drop_kind("node log", 0.75, 0.4)
    hand.wire("transform", "out", "log")
    # A wire that is let go over nothing asks what shall be there.
    hand.drag(hand.middle(hand.node("log").locator('[data-port="out"]')), hand.spot(0.8, 0.75))
    hand.choose("condition")
    expect(hand.node("condition")).to_be_visible()
    hand.node("transform").dblclick()
    page.get_by_role("combobox", name="Expression").fill("{'n': 7}")
    hand.node("condition").dblclick()
    page.get_by_role("combobox", name="When").fill("payload.n == 7")
    expect(page.get_by_role("button", name="Problems: 0")).to_be_visible()
    hand.deploy("Drawn")
    saved = flow_of(hand.panel, hand.flow)
    assert saved["edges"] == [{"from": "transform", "to": "log"}, {"from": "log", "to": "condition"}]
    assert [trigger["type"] for trigger in saved["triggers"]] == ["manual"]
    run = hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"wait": 10})
    assert (run["state"], run["output"]) == ("succeeded", {"n": 7})


def test_a_flow_is_drawn_with_the_keyboard_alone(edit: Open) -> None:
    hand = edit({"name": "By keys"})
    page = hand.page
    hand.canvas.focus()
    # Typing a name adds a node, each behind the one before.
    for name, kind in (("manual", "trigger:manual"), ("transform", "transform"), ("condition", "condition")):
        page.keyboard.type(name)
        hand.press("Enter")
        expect(hand.node(kind)).to_be_visible()
    page.keyboard.type("log")
    hand.press("Enter")
    expect(hand.node("log")).to_be_visible()
    # Settings: Enter opens them, Escape leads back to the canvas.
    hand.press("ArrowLeft", "Enter")
    expect(page.get_by_test_id("panel")).to_be_visible()
    page.keyboard.type("payload.n > 3")
    hand.press("Escape")
    expect(page.get_by_test_id("panel")).to_have_count(0)
    hand.press("ArrowLeft", "Enter")
    page.get_by_role("combobox", name="Expression").focus()
    page.keyboard.type("{'n': 7}")
    hand.press("Escape")
    # Link by keys: the condition's port `false` to the log as well.
    hand.press("ArrowRight", ">")
    page.keyboard.type("false")
    hand.press("Enter")
    page.keyboard.type("log")
    hand.press("Enter")
    expect(page.get_by_role("button", name="Problems: 0")).to_be_visible()
    hand.press("Control+Enter")
    expect(page.get_by_test_id("deploy-dialog")).to_be_visible()
    page.get_by_test_id("deploy-message").focus()
    page.keyboard.type("By keys")
    hand.press("Enter")
    expect(page.get_by_test_id("status")).to_contain_text("is live")
    edges = flow_of(hand.panel, hand.flow)["edges"]
    assert edges == [
        {"from": "transform", "to": "condition"},
        {"from": "condition", "to": "log", "port": "true"},
        {"from": "condition", "to": "log", "port": "false"},
    ]
    run = hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"wait": 10})
    assert run["output"] == {"n": 7}


def test_everything_can_be_undone_and_done_again(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Undone"})
    page = hand.page
    status = page.get_by_test_id("status")
    expect(hand.node("say")).to_be_visible()
    hand.drag(hand.middle(hand.node("fine")), hand.spot(0.5, 0.85))
    hand.node("say").click()
    hand.press("Delete")
    expect(hand.node("say")).to_have_count(0)
    hand.node("read").dblclick()
    page.get_by_test_id("panel").get_by_label("Name").fill("Read the sensor")
    hand.press("Escape")
    hand.press("Control+a", "Control+d")
    expect(hand.node("hot_2")).to_be_visible()
    expect(status).to_have_text("Not saved")
    for _ in range(4):
        hand.press("Control+z")
    expect(status).to_have_text("Not deployed")
    assert sorted(hand.nodes()) == ["fine", "hot", "read", "say", "trigger:m"]
    for _ in range(4):
        hand.press("Control+Shift+z")
    expect(hand.node("hot_2")).to_be_visible()
    expect(hand.node("say")).to_have_count(0)
    hand.save()
    names = {node["id"]: node.get("name") for node in flow_of(hand.panel, hand.flow)["nodes"]}
    assert names["read"] == "Read the sensor"


def test_parts_are_copied_as_text_between_flows(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Copied from"})
    hand.node("hot").click()
    hand.node("say").click(modifiers=["Shift"])
    hand.press("Control+c")
    other = edit({"name": "Copied to"}, panel=hand.panel)
    other.canvas.focus()
    other.press("Control+v")
    expect(other.node("hot")).to_be_visible()
    other.save()
    assert flow_of(other.panel, other.flow)["edges"] == [{"from": "hot", "to": "say", "port": "true"}]


def test_problems_are_shown_where_they_are(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Faulty"})
    page = hand.page
    hand.node("hot").dblclick()
    when = page.get_by_role("combobox", name="When")
    when.fill("payload.t >")
    expect(page.get_by_role("button", name="Problems: 1")).to_be_visible()
    expect(hand.node("hot")).to_have_attribute("aria-label", "hot, Condition, 1 problem")
    expect(page.get_by_test_id("panel").locator(".error")).to_contain_text("line 1")
    # The list leads back to the field.
    hand.node("say").click()
    page.get_by_test_id("problems-button").click()
    page.get_by_test_id("problems").get_by_role("button").click()
    expect(page.get_by_role("combobox", name="When")).to_be_focused()
    # What has faults is saved as a draft and not deployed.
    page.get_by_test_id("deploy").click()
    expect(page.get_by_test_id("deploy-now")).to_be_disabled()
    hand.panel.shot("editor-problems")
    hand.press("Escape")
    page.get_by_role("combobox", name="When").fill("payload.t > 30")
    expect(page.get_by_role("button", name="Problems: 0")).to_be_visible()


def test_fields_complete_names_and_show_what_they_give(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Completed"}, deploy=True)
    page = hand.page
    hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"input": {"t": 34}, "wait": 10})
    hand = reopen(hand.panel, hand.flow)
    hand.node("say").dblclick()
    message = page.get_by_role("combobox", name="Message")
    expect(page.get_by_test_id("gives")).to_contain_text("It is 34 °C in the greenhouse")
    message.fill("")
    message.press_sequentially("{{ payload.ro")
    hand.press("Enter")
    message.press_sequentially(" | upper }}")
    expect(message).to_have_value("{{ payload.room | upper }}")
    expect(page.get_by_test_id("gives")).to_contain_text("GREENHOUSE")
    hand.panel.shot("editor-template")


def test_a_node_is_tested_with_the_data_of_a_past_run(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Tested"}, deploy=True)
    page = hand.page
    hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"input": {"t": 34}, "wait": 10})
    hand = reopen(hand.panel, hand.flow)
    hand.node("hot").dblclick()
    page.get_by_text("Test this node").click()
    expect(page.get_by_label("What it works on")).to_have_value('{\n  "t": 34,\n  "room": "greenhouse"\n}')
    page.get_by_test_id("try").click()
    expect(page.get_by_test_id("tried")).to_contain_text("Done by port true")
    page.get_by_label("What it works on").fill('{"t": 3}')
    page.get_by_test_id("try").click()
    expect(page.get_by_test_id("tried")).to_contain_text("Done by port false")
    assert len(hand.panel.api("GET", f"/runs?flow={hand.flow}")["items"]) == 1


def test_runs_are_shown_while_they_go_through(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Lived"}, deploy=True)
    expect(hand.node("hot")).to_be_visible()
    hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"input": {"t": 34}, "wait": 10})
    expect(hand.node("say")).to_have_attribute("data-state", "done")
    expect(hand.node("hot")).to_have_attribute("data-state", "done")
    expect(hand.node("fine")).to_have_attribute("data-state", "")
    hand.panel.shot("editor-live")


def test_deploying_shows_what_changes_first(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Deployed"}, deploy=True)
    page = hand.page
    hand.node("hot").dblclick()
    page.get_by_role("combobox", name="When").fill("payload.t > 28")
    hand.node("fine").click()
    hand.press("Delete")
    page.get_by_test_id("deploy").click()
    diff = page.get_by_test_id("diff")
    expect(diff).to_contain_text("Node hot (condition)")
    expect(diff).to_contain_text("payload.t > 28")
    expect(diff).to_contain_text("Edge hot → fine by false")
    hand.panel.shot("editor-deploy")
    assert hand.panel.accessibility() == []
    page.get_by_test_id("deploy-message").fill("Warn earlier")
    page.get_by_test_id("deploy-now").click()
    expect(page.get_by_test_id("status")).to_have_text("Version 2 is live")


def test_a_version_is_looked_at_and_rolled_back_to(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Rolled back"}, deploy=True)
    page = hand.page
    hand.node("fine").click()
    hand.press("Delete")
    hand.deploy("Without the second one")
    page.get_by_test_id("versions-button").click()
    page.locator('[data-version="1"]').click()
    expect(page.get_by_test_id("preview")).to_contain_text("What changed since version 1")
    page.get_by_test_id("diff").get_by_text("Node fine").click()
    expect(hand.node("fine")).to_have_attribute("aria-label", "fine, Log, removed")
    hand.panel.shot("editor-versions")
    assert hand.panel.accessibility() == []
    page.get_by_test_id("roll-back").click()
    expect(page.get_by_test_id("status")).to_have_text("Version 2, 1 is live")
    assert hand.panel.api("GET", f"/flows/{hand.flow}")["live"] == 1


def test_two_people_who_save_at_once_lose_nothing(edit: Open, open_panel: OpenPanel) -> None:
    mine = edit({**GUARD, "name": "Both"})
    theirs = reopen(open_panel(), mine.flow)
    theirs.node("fine").click()
    theirs.press("Delete")
    theirs.save()
    mine.panel.expected.append("409")
    mine.node("say").click()
    mine.press("Delete")
    mine.press("Control+s")
    conflict = mine.page.get_by_test_id("conflict")
    expect(conflict).to_contain_text("Version 2")
    expect(conflict.get_by_test_id("diff")).to_contain_text("Node say")
    mine.panel.shot("editor-conflict")
    assert mine.panel.accessibility() == []
    # Theirs first, which can be undone; then mine on top.
    mine.page.get_by_test_id("take-theirs").click()
    expect(mine.node("say")).to_be_visible()
    expect(mine.node("fine")).to_have_count(0)
    mine.canvas.focus()
    mine.press("Control+z")
    expect(mine.node("fine")).to_be_visible()
    mine.save()
    third = flow_of(mine.panel, mine.flow)
    assert [node["id"] for node in third["nodes"]] == ["read", "hot", "fine"]
    theirs.panel.expected.append("409")
    theirs.node("hot").click()
    theirs.press("Delete", "Control+s")
    theirs.page.get_by_test_id("keep-mine").click()
    expect(theirs.page.get_by_test_id("conflict")).to_have_count(0)
    assert theirs.panel.api("GET", f"/flows/{mine.flow}")["newest"] == 4


def test_the_json_and_the_spec_are_edited_too(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Written"})
    page = hand.page
    page.get_by_test_id("spec-button").click()
    page.get_by_role("textbox", name="The flow’s specification").fill("# Keep the plants cool")
    page.get_by_test_id("json-button").click()
    text = page.get_by_role("textbox", name="The flow as JSON")
    text.fill(json.dumps({**GUARD, "name": "Written", "spec": "# Cool", "nodes": GUARD["nodes"][:2], "edges": []}))
    expect(hand.node("say")).to_have_count(0)
    hand.save()
    saved = flow_of(hand.panel, hand.flow)
    assert (saved["spec"], len(saved["nodes"])) == ("# Cool", 2)


def test_a_body_is_edited_like_a_flow(edit: Open) -> None:
    loop = {"id": "loop", "type": "for_each", "config": {"items": "payload", "body": {"nodes": [], "edges": []}}}
    hand = edit({"name": "Looped", "nodes": [loop]})
    hand.node("loop").click()
    hand.press("Control+ArrowDown")
    expect(hand.page.get_by_text("This body is empty")).to_be_visible()
    hand.canvas.focus()
    hand.page.keyboard.type("log")
    hand.press("Enter")
    expect(hand.node("log")).to_be_visible()
    hand.press("Control+ArrowUp")
    expect(hand.node("loop")).to_be_visible()
    hand.save()
    assert flow_of(hand.panel, hand.flow)["nodes"][0]["config"]["body"]["nodes"][0]["id"] == "log"


def test_an_empty_flow_and_the_sheet_of_keys_are_usable_too(edit: Open) -> None:
    hand = edit({"name": "Empty"})
    expect(hand.page.get_by_role("heading", name="An empty flow")).to_be_visible()
    assert hand.panel.accessibility() == []
    hand.panel.shot("editor-empty")
    hand.page.get_by_role("button", name="Add a trigger or a node").click()
    expect(hand.page.get_by_role("combobox", name="Add a node")).to_be_focused()
    assert hand.panel.accessibility() == []
    hand.press("Escape", "?")
    expect(hand.page.get_by_test_id("shortcuts")).to_be_visible()
    hand.panel.shot("editor-keys")
    assert hand.panel.accessibility() == []


def test_fingers_pan_pinch_and_hold(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Touched"}, phone=True)
    page = hand.page
    x, y = hand.spot(0.5, 0.8)
    before = hand.middle(hand.node("read"))
    touch = Touch(page)
    touch.go("touchStart", (x, y))
    touch.go("touchMove", (x - 30, y - 40))
    touch.go("touchMove", (x - 60, y - 80))
    touch.go("touchEnd")
    expect(hand.node("read")).to_be_visible()
    after = hand.middle(hand.node("read"))
    assert after[0] - before[0] == pytest.approx(-60, abs=2)
    assert after[1] - before[1] == pytest.approx(-80, abs=2)
    zoom = page.get_by_role("button", name="full size")
    was = zoom.inner_text()
    touch.go("touchStart", (x - 20, y), (x + 20, y))
    touch.go("touchMove", (x - 40, y), (x + 40, y))
    touch.go("touchEnd")
    expect(zoom).not_to_have_text(was)
    # A finger that stays brings the menu.
    touch.go("touchStart", (x, y))
    expect(page.get_by_role("menuitem", name="Add a node here")).to_be_visible()
    touch.go("touchEnd")
    page.get_by_role("menuitem", name="See all of it").tap()
    expect(page.get_by_role("menu")).to_have_count(0)


class Touch:
    """Fingers on a page, over Chromium's own protocol; Playwright itself only taps."""

    def __init__(self, page: Page) -> None:
        self._link = page.context.new_cdp_session(page)

    def go(self, what: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
        self._link.send("Input.dispatchTouchEvent", {"type": what, "touchPoints": points})


def test_leaving_asks_about_what_is_not_saved(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Left"})
    hand.node("fine").click()
    hand.press("Delete")
    hand.page.get_by_role("link", name="All flows").click()
    hand.page.get_by_role("button", name="Stay").click()
    expect(hand.page.get_by_test_id("status")).to_have_text("Not saved")
    hand.save()
    hand.page.get_by_role("link", name="All flows").click()
    expect(hand.canvas).to_have_count(0)


def test_nodes_are_grouped_aligned_and_laid_out(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Arranged"})
    page = hand.page
    hand.node("say").click()
    hand.node("fine").click(modifiers=["Shift"])
    hand.press("Control+g", "Enter")
    page.get_by_label("Heading of the group").fill("Tell somebody")
    page.get_by_role("button", name="Align top edges").click()
    page.get_by_role("button", name="Close").first.click()
    hand.press("Control+a", "Control+Shift+L")
    expect(page.get_by_text("Laid out", exact=True)).to_be_attached()
    hand.save()
    saved = flow_of(hand.panel, hand.flow)
    assert [(group["name"], group["nodes"]) for group in saved["groups"]] == [("Tell somebody", ["say", "fine"])]
    place = {node["id"]: node["position"] for node in saved["nodes"]}
    assert place["read"]["x"] < place["hot"]["x"] < place["say"]["x"] == place["fine"]["x"]
    assert saved["triggers"][0]["position"]["x"] < place["read"]["x"]


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_the_editor_is_usable_by_everybody(edit: Open, phone: bool) -> None:
    hand = edit({**GUARD, "name": f"Looks {phone}"}, deploy=True, phone=phone)
    look = "phone" if phone else "desktop"
    expect(hand.node("read")).to_be_visible()
    faults = {"canvas": hand.panel.in_both_themes(f"editor-{look}")}
    if phone:
        hand.node("read").tap()
    else:
        hand.node("read").dblclick()
    expect(hand.page.get_by_test_id("panel")).to_be_visible()
    faults["config"] = hand.panel.in_both_themes(f"editor-config-{look}")
    for panel in ("problems", "versions", "json", "spec", "rehearse"):
        hand.page.get_by_test_id(f"{panel}-button").click()
        expect(hand.page.get_by_test_id("panel")).to_be_visible()
        faults[panel] = hand.panel.in_both_themes(f"editor-{panel}-{look}")
    assert {place: found for place, found in faults.items() if found} == {}


def test_running_asks_what_the_flow_gets(edit: Open) -> None:
    inputs = [{"name": "t", "type": "number", "title": "Temperature", "required": True}]
    form = {**GUARD, "name": "Asked", "triggers": [{"id": "m", "type": "manual", "config": {"inputs": inputs}}]}
    hand = edit(form, deploy=True)
    page = hand.page
    hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"input": {"t": 31}, "wait": 10})
    page.get_by_test_id("run").click()
    dialog = page.get_by_role("dialog", name="Run Asked")
    assert hand.panel.accessibility("dialog[open]") == []
    dialog.get_by_role("button", name="Fill in what the newest run got").click()
    expect(dialog.get_by_label("Temperature")).to_have_value("31")
    hand.panel.shot("editor-run")
    dialog.get_by_label("Temperature").fill("12")
    dialog.get_by_role("button", name="Run", exact=True).click()
    expect(hand.node("fine")).to_have_attribute("data-state", "done")
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_url("**/runs/*")


def test_running_without_a_form_begins_with_what_the_newest_run_got(edit: Open) -> None:
    hand = edit({**GUARD, "name": "Given"}, deploy=True)
    page = hand.page
    hand.panel.api("POST", f"/flows/{hand.flow}/runs", {"input": {"t": 33}, "wait": 10})
    page.get_by_test_id("run").click()
    expect(page.get_by_role("textbox", name="Payload")).to_contain_text('"t": 33')
    page.get_by_role("dialog").get_by_role("button", name="Run", exact=True).click()
    expect(hand.node("say")).to_have_attribute("data-state", "done")
