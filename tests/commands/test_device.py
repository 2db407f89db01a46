"""``flowork device``, with a real kernel and a real agent with simulated hardware."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.kernel.kernel import Kernel
from tests.commands.box import Box
from tests.support.broker import eventually
from tests.support.flows import compute, flow
from tests.support.local_agent import LocalAgent


@pytest.fixture
def boards(box: Box, kernel: Kernel) -> Iterator[None]:
    """Two boards of simulated hardware."""
    with LocalAgent(box.folder):
        for name in ("one", "two"):
            config = {"driver": "sim", "config": {"name": name, "interval": 0.05}}
            box.deploy(flow(compute("a", "1"), name=name, triggers=[{"id": "t", "type": "device", "config": config}]))
        eventually(lambda: len(box.json("device", "list")["items"]) == 6)
        yield


def test_devices_are_listed_shown_and_told(box: Box, boards: None) -> None:
    rows = {item["config"]["name"]: item for item in box.json("device")["items"] if item["entity"] == "lamp"}
    listed = box.run("device", "list")
    assert rows["one"]["id"] in listed and "temperature" in listed
    shown = box.run("device", "show", rows["one"]["id"])
    assert "one: lamp" in shown and '"name":"one"' in shown and "boolean" in shown
    assert "this machine" in shown
    assert box.json("device", "command", rows["one"]["id"], "true") == {"entity": "lamp", "value": True}
    eventually(lambda: box.json("device", "show", rows["one"]["id"])["value"] is True)
    assert box.json("device", "show", rows["two"]["id"])["value"] is False
    assert box.json("audit", "list")["items"][0]["action"] == "device.command"


def test_a_name_that_two_have_is_asked_back(box: Box, boards: None) -> None:
    said = box.fails("device", "show", "lamp")
    assert "2 devices" in said
    name = next(i["name"] for i in box.json("device")["items"] if i["entity"] == "lamp")
    assert f"({name})" in said
    assert name in box.run("device", "show", name)
    assert "no device" in box.fails("device", "show", "nothing", code=3)
    assert "agent pair elsewhere" in box.fails("device", "list", "--agent", "elsewhere", code=3)


def test_an_agent_that_there_is_not_is_told_before_anything_is_asked(box: Box, kernel: Kernel) -> None:
    for words in (("agent", "revoke", "shed"), ("agent", "update", "shed")):
        assert "no agent 'shed'" in box.fails(*words, code=3)
    assert "no pairing waits" in box.fails("agent", "unpair", "shed", code=3)
    assert "small letters" in box.fails("agent", "pair", "S" * 41)


def test_a_number_has_a_history(box: Box, boards: None) -> None:
    thermometer = next(i["id"] for i in box.json("device")["items"] if i["entity"] == "temperature")
    points = eventually(lambda: box.json("device", "history", thermometer)["points"])
    assert all(10 < value < 30 for _, value in points)
    assert "°C" in box.run("device", "history", thermometer)
    button = next(i["id"] for i in box.json("device")["items"] if i["entity"] == "button")
    assert "no numbers" in box.run("device", "history", button)


def test_a_command_that_cannot_be_says_why(box: Box, boards: None) -> None:
    lamp = next(i["id"] for i in box.json("device")["items"] if i["entity"] == "lamp")
    assert "bool" in box.fails("device", "command", lamp, "bright")
    assert "colour" in box.fails("device", "command", lamp, "true", "--set", '{"colour": "red"}')
    assert "--set" in box.fails("device", "command", lamp, "true", "--set", "[1]")


def test_a_driver_is_run_to_see_what_there_is(box: Box, kernel: Kernel) -> None:
    with LocalAgent(box.folder):
        eventually(lambda: box.json("agent", "list")["items"][0]["online"])
        found = box.json("device", "look", "sim", "--config", '{"name": "tried"}', "--seconds", "1")["items"]
        assert {each["entity"] for each in found} == {"lamp", "button", "temperature"}
        assert "tried: lamp" in box.run("device", "look", "sim", "--config", '{"name": "tried"}', "--seconds", "1")
        assert "/dev/nowhere" in box.fails(
            "device", "look", "serial", "--config", '{"port": "/dev/nowhere"}', "--seconds", "0.5"
        )
        assert "teleporter" in box.fails("device", "look", "teleporter")
        eventually(lambda: box.json("device", "list")["items"] == [], "nothing is left running")


def test_without_a_kernel_it_says_how_to_start_one(box: Box) -> None:
    assert "flowork up" in box.fails("device", "list", code=5)


def test_without_devices_it_says_why(box: Box, kernel: Kernel) -> None:
    assert "no live flow uses a driver" in box.run("device", "list")
