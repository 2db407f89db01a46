"""Devices and agents over the API: a real kernel, a real agent with simulated hardware, and who may do what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway.engine import API, Home, wait_for
from tests.gateway.served import Served, watching
from tests.support.flows import compute, flow
from tests.support.local_agent import LocalAgent

SIM = {"name": "api", "interval": 0.05}


@pytest.fixture(scope="module")
def agent(home: Home) -> Iterator[LocalAgent]:
    home.owner.do("PATCH", "/settings", {"values": {"rate_limit": 10_000, "rate_burst": 10_000}})
    with LocalAgent(home.data) as agent:
        wait_for(lambda: home.owner.get("/agents")["items"][0]["online"], "the agent")
        yield agent


@pytest.fixture(scope="module")
def board(home: Home, agent: LocalAgent) -> dict[str, dict[str, Any]]:
    """A flow that uses simulated hardware, and so makes it appear."""
    trigger = {"id": "t1", "type": "device", "config": {"driver": "sim", "config": SIM, "entity": "button"}}
    home.save(flow(compute("a", "payload.value"), name="Board", triggers=[trigger]))
    wait_for(lambda: len(devices(home)) == 3, "the board")
    return devices(home)


def devices(home: Home) -> dict[str, dict[str, Any]]:
    return {item["entity"]: item for item in home.owner.get("/devices")["items"]}


def test_this_machine_is_an_agent(home: Home, board: dict[str, Any]) -> None:
    (here,) = home.owner.get("/agents")["items"]
    assert (here["name"], here["online"]) == ("", True)
    wait_for(lambda: home.owner.get("/agents/-")["available"].get("sim") == "", "the survey of drivers")
    assert [driver["driver"] for driver in home.owner.get("/agents/-")["drivers"]] == ["sim"]
    assert home.owner("GET", "/agents/nobody").status_code == 404
    assert home.owner("GET", "/agents/No%20Name").status_code == 422


def test_devices_are_listed_with_their_last_values(home: Home, board: dict[str, Any]) -> None:
    lamp = board["lamp"]
    assert (lamp["driver"], lamp["agent"], lamp["kind"], lamp["writable"]) == ("sim", "", "binary", True)
    assert lamp["config"]["name"] == "api"
    assert lamp["commands"]["properties"]["value"] == {"type": "boolean"}
    told = wait_for(lambda: (item := devices(home)["temperature"])["time"] and item, "a reading")
    assert (told["unit"], told["last"], told["online"]) == ("°C", "changed", True)
    shown = home.owner("GET", f"/devices/{told['id']}")
    assert shown.get_json()["entity"] == "temperature"
    tag = home.owner("GET", f"/devices/{lamp['id']}").headers["ETag"]
    assert home.owner("GET", f"/devices/{lamp['id']}", headers={"If-None-Match": tag}).status_code == 304


def test_the_list_comes_in_pages_and_parts(home: Home, board: dict[str, Any]) -> None:
    seen, path = [], "/devices?limit=1"
    while True:
        page = home.owner.get(path)
        seen += [item["entity"] for item in page["items"]]
        if not page["next"]:
            break
        path = f"/devices?limit=1&cursor={page['next']}"
    assert seen == sorted(board)
    assert home.owner.get("/devices?driver=gpio")["items"] == []
    assert len(home.owner.get("/devices?agent=&writable=true")["items"]) == 3
    assert home.owner.get("/devices?agent=elsewhere")["items"] == []
    assert home.owner("GET", "/devices?cursor=nonsense").status_code == 422
    assert home.owner("GET", "/devices?colour=red").status_code in (400, 422)


def test_a_number_has_a_history(home: Home, board: dict[str, Any]) -> None:
    path = f"/devices/{board['temperature']['id']}/history"
    found = wait_for(lambda: (told := home.owner.get(path))["points"] and told, "a point")
    assert found["unit"] == "°C"
    assert all(10 < value < 30 for _, value in found["points"])
    assert home.owner.get(f"/devices/{board['button']['id']}/history")["points"] == []


def test_a_command_is_acknowledged_and_audited(home: Home, board: dict[str, Any]) -> None:
    lamp = f"/devices/{board['lamp']['id']}"
    done = home.owner.do("POST", f"{lamp}/command", {"value": True})
    assert done == {"acknowledgement": {"entity": "lamp", "value": True}}
    wait_for(lambda: home.owner.get(lamp)["value"] is True, "the lamp")
    entry = home.owner.get("/audit?limit=1")["items"][0]
    assert (entry["action"], entry["target"]) == ("device.command", "lamp")
    home.owner.do("POST", f"{lamp}/command", {"value": False})


def test_a_press_with_one_key_is_one_press(home: Home, board: dict[str, Any]) -> None:
    before = len(home.owner.get("/runs?flow=board&limit=100")["items"])
    button = f"/devices/{board['button']['id']}/command"
    for _ in range(3):
        home.owner.do("POST", button, {"value": "press"}, headers={"Idempotency-Key": "press-1"})
    home.owner.do("POST", button, {"value": "press"}, headers={"Idempotency-Key": "press-2"})
    wait_for(lambda: len(home.owner.get("/runs?flow=board&limit=100")["items"]) == before + 2, "two runs")


@pytest.mark.parametrize(
    ("device", "body", "status", "words"),
    [
        ("lamp", {"value": "bright"}, 502, "bool"),
        ("lamp", {"value": True, "set": {"colour": "red"}}, 502, "colour"),
        ("lamp", {"value": True, "timeout": 0}, 422, "timeout"),
        ("lamp", {"brightness": 3}, 422, "brightness"),
        ("0000000000000000", {"value": True}, 404, "no device"),
        ("not-an-id", {"value": True}, 422, "device"),
    ],
)
def test_a_bad_command_is_refused_with_the_reason(
    home: Home, board: dict[str, Any], device: str, body: dict[str, Any], status: int, words: str
) -> None:
    place = board[device]["id"] if device in board else device
    response = home.owner("POST", f"/devices/{place}/command", body)
    assert response.status_code == status, response.get_data(as_text=True)
    assert words in response.get_data(as_text=True)


def test_readers_read_runners_command_admins_pair(home: Home, board: dict[str, Any]) -> None:
    lamp = f"/devices/{board['lamp']['id']}/command"
    reader, runner = home.person("reader")[0], home.person("runner")[0]
    admin = home.person("admin", "*")[0]
    for person in (reader, runner, admin):
        assert len(person.get("/devices")["items"]) == 3
        assert person.get("/agents")["items"]
    browser = {"X-Flowork": "1"}
    assert reader("POST", lamp, {"value": True}, headers=browser).status_code == 403
    assert runner("POST", lamp, {"value": True}, headers=browser).status_code == 200
    assert runner("POST", "/agents/pairings", {"name": "shed"}, headers=browser).status_code == 403
    assert runner("DELETE", "/agents/shed", headers=browser).status_code == 403
    assert runner("POST", "/agents/-/update", headers=browser).status_code == 403
    assert runner("GET", "/agents/pairings").status_code == 403
    assert admin("GET", "/agents/pairings").status_code == 200
    assert home.caller(["runs:read"])("GET", "/devices").status_code == 403
    assert home.caller(["devices"])("POST", lamp, {"value": False}).status_code == 200
    assert home.anonymous("GET", "/devices").status_code == 401


def test_a_pairing_is_opened_listed_without_its_code_and_ended(make_home: Callable[..., Home]) -> None:
    home = make_home()
    home.owner.do("PATCH", "/settings", {"values": {"agent_port": 0}})
    home.start_kernel()
    closed = home.owner("POST", "/agents/pairings", {"name": "shed"})
    assert (closed.status_code, "agent_port" in closed.get_json()["detail"]) == (409, True)
    assert home.owner.get("/agents/pairings")["items"] == []
    assert home.owner("DELETE", "/agents/pairings/shed").status_code == 404
    assert home.owner("DELETE", "/agents/shed").status_code == 404
    assert home.owner("POST", "/agents/shed/update").status_code == 404
    own = home.owner("POST", "/agents/-/update")
    assert (own.status_code, "comes with Flowork" in own.get_json()["detail"]) == (409, True)
    assert home.owner("POST", "/agents/pairings", {"name": "No Name"}).status_code == 422


def test_passwords_of_brokers_are_not_shown(home: Home, agent: LocalAgent) -> None:
    broker = "mqtt://me:hunter2-planted@127.0.0.1:9"
    trigger = {"id": "t1", "type": "device", "config": {"driver": "mqtt_device", "config": {"broker": broker}}}
    home.save(flow(compute("a", "1"), name="Broker", triggers=[trigger]))
    wait_for(lambda: "mqtt_device" in str(home.owner.get("/agents/-")["drivers"]), "the driver")
    text = home.owner("GET", "/agents/-").get_data(as_text=True)
    assert "hunter2-planted" not in text
    (driver,) = [each for each in json.loads(text)["drivers"] if each["driver"] == "mqtt_device"]
    assert driver["config"]["broker"] == "mqtt://me:•••@127.0.0.1:9"
    assert "hunter2-planted" not in str(home.owner.get("/triggers")["items"])


def test_a_driver_is_run_to_see_what_there_is(home: Home, agent: LocalAgent) -> None:
    asked = {"driver": "sim", "config": {"name": "tried"}, "seconds": 1}
    found = home.owner.do("POST", "/devices/look", asked)
    assert (found["ok"], {each["entity"] for each in found["items"]}) == (True, {"lamp", "button", "temperature"})
    nowhere = {"driver": "serial", "config": {"port": "/dev/nowhere"}, "seconds": 0.5}
    found = home.owner.do("POST", "/devices/look", nowhere)
    assert (found["ok"], found["items"], "/dev/nowhere" in found["text"]) == (False, [], True)
    assert home.owner("POST", "/devices/look", {"driver": "teleporter"}).status_code == 422
    assert home.caller(["devices"])("POST", "/devices/look", asked).status_code == 403


def test_values_are_told_live_to_those_who_may_see_devices(home: Home, board: dict[str, Any]) -> None:
    served = Served(home.data, threads=19)
    try:
        blind = home.caller(["runs:read"])
        with (
            watching(served, headers=home.owner.headers) as panel,
            watching(served, headers=blind.headers) as other,
        ):
            for each in (panel, other):
                each.until(lambda event: event["type"] == "hello")
            home.owner.do("POST", f"/devices/{board['lamp']['id']}/command", {"value": True})
            told = panel.until(
                lambda event: event["type"] == "devices" and any(v["entity"] == "lamp" for v in event["values"])
            )
            (news,) = [value for value in told["values"] if value["entity"] == "lamp"]
            assert (news["device"], news["driver"]) == (board["lamp"]["id"], "sim")
            assert "config" not in news
            run = home.owner.do("POST", "/flows/board/runs", {"input": {"value": 1}, "wait": 10})["run"]
            other.until(lambda event: event.get("run") == run)
            assert not [event for event in other.events if event["type"] in ("devices", "agent")]
    finally:
        served.stop()


def test_without_a_kernel_nothing_is_known(make_home: Callable[..., Home]) -> None:
    home = make_home()
    for path in ("/devices", "/agents", "/agents/-", "/devices/0000000000000000"):
        assert home.owner("GET", path).status_code == 503
    assert API
