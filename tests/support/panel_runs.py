"""Flows whose runs the panel's tests look at, and a way to start them that waits for nothing."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, expect

from tests.support.broker import eventually
from tests.support.panel import Panel

HAND = [{"id": "hand", "type": "manual", "config": {}}]

#: Weighs each bed, waits for the scales, and tells who sells; stops at `scales` until the event `weighed` comes.
HARVEST: dict[str, Any] = {
    "name": "Harvest day",
    "triggers": HAND,
    "nodes": [
        {"id": "beds", "type": "transform", "name": "List the beds", "config": {"expression": "payload.beds"}},
        {
            "id": "each",
            "type": "for_each",
            "name": "Weigh each bed",
            "config": {
                "body": {
                    "nodes": [
                        {"id": "weigh", "type": "transform", "config": {"expression": "payload.kg * 1000"}},
                        {"id": "note", "type": "log", "config": {"message": "{{ payload }} g"}},
                    ],
                    "edges": [{"from": "weigh", "to": "note"}],
                }
            },
        },
        {"id": "scales", "type": "wait_event", "name": "Wait for the scales", "config": {"name": "weighed"}},
        {"id": "enough", "type": "condition", "name": "Enough?", "config": {"when": "payload.kg > 5"}},
        {"id": "sell", "type": "log", "name": "Sell it", "config": {"message": "{{ payload.kg }} kg to sell"}},
        {"id": "keep", "type": "log", "name": "Keep it", "config": {"message": "too little"}},
    ],
    "edges": [
        {"from": "beds", "to": "each"},
        {"from": "each", "to": "scales"},
        {"from": "scales", "to": "enough"},
        {"from": "enough", "to": "sell", "port": "true"},
        {"from": "enough", "to": "keep", "port": "false"},
    ],
}
BEDS = {"beds": [{"kg": 3}, {"kg": 5}, {"kg": 1}]}

#: Fails for good when there is nothing to share among.
SHARE: dict[str, Any] = {
    "name": "Share the harvest",
    "triggers": HAND,
    "nodes": [
        {"id": "read", "type": "transform", "name": "Read it", "config": {"keep": True, "set": {"day": "saturday"}}},
        {
            "id": "share",
            "type": "transform",
            "name": "Share it out",
            "config": {"expression": "{'each': payload.kg / payload.people}"},
        },
        {"id": "tell", "type": "log", "name": "Tell them", "config": {"message": "{{ payload.each }} kg each"}},
    ],
    "edges": [{"from": "read", "to": "share"}, {"from": "share", "to": "tell"}],
}


def deployed(panel: Panel, flow: dict[str, Any], name: str = "") -> str:
    """Save a flow, make it live; its id."""
    body = {**flow, "name": name or flow["name"]}
    return str(panel.api("POST", "/flows", {"flow": body, "deploy": True})["id"])


def started(panel: Panel, flow: str, payload: Any = None) -> str:
    """Start a run; its id."""
    return str(panel.api("POST", f"/flows/{flow}/runs", {"input": payload})["run"])


def reached(panel: Panel, run: str, state: str) -> dict[str, Any]:
    """The run once it is in this state."""
    found: dict[str, Any] = eventually(
        lambda: (told := panel.api("GET", f"/runs/{run}"))["state"] == state and told, f"run {run} to be {state}"
    )
    return found


def card(panel: Panel, node: str) -> Locator:
    """A node's card on the run's canvas; `data-phase` is what it was doing."""
    return panel.page.locator(f'[data-testid="run-canvas"] [data-node="{node}"]')


def expect_phases(panel: Panel, **phases: str) -> None:
    """Nodes that are on the canvas are doing this."""
    for node, phase in phases.items():
        expect(card(panel, node)).to_have_attribute("data-phase", phase)


def fill_json(panel: Panel, text: str) -> None:
    """Put a text into the JSON editor of the open dialog."""
    editor = panel.page.locator("dialog[open] .cm-content")
    editor.click()
    panel.page.keyboard.press("Control+a")
    panel.page.keyboard.insert_text(text)
