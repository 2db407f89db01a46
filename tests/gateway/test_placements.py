"""Work across engines over the API: what is away, all boxes at a glance, a search on all, flows that are sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.engine import Home, wait_for
from tests.support.boxes import EVERYTHING, box
from tests.support.broker import free_port
from tests.support.flows import compute, flow, node
from tests.support.kernels import LocalKernel


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An engine whose kernel says nothing to any network but the loopback."""
    made = Home(tmp_path_factory.mktemp("engine"))
    values = {"peer_port": free_port(), "peer_discovery": "never", "engine_name": "pi"}
    made.owner.do("PATCH", "/settings", {"values": values})
    made.start_kernel()
    yield made
    made.close()


@pytest.fixture(scope="module")
def laptop(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKernel]:
    """Another whole engine, paired with this one."""
    folder: Path = tmp_path_factory.mktemp("others")
    made: LocalKernel = box(folder, "laptop")
    shown = made.client.call("peer_pair", roles=EVERYTHING)
    address = f"127.0.0.1:{shown['port']}"
    home.owner.do("POST", "/peers/join", {"code": shown["code"], "address": address, "roles": EVERYTHING})
    wait_for(lambda: home.owner.get("/peers/laptop")["state"] == "connected", "the link")
    wait_for(lambda: home.owner.get("/peers/laptop")["offers"]["exact"], "what it offers")
    yield made
    made.close()


def test_all_boxes_and_what_is_on_them(home: Home, laptop: LocalKernel) -> None:
    laptop.deploy({**flow(compute("a", "1/0")), "name": "Broken lamp"})
    assert laptop.kernel is not None
    laptop.client.call("reload")
    laptop.submit(laptop.kernel.store.flows.get("broken-lamp").num, {}, wait=20.0)
    here, there = home.owner.get("/placements/boxes?workspace=*")["items"]
    assert (here["name"], here["state"], here["told"]["failed_day"]) == ("pi", "self", 0)
    assert (there["name"], there["told"]["live"], there["told"]["failed_day"]) == ("laptop", 1, 1)
    assert there["told"]["failures"][0]["flow_name"] == "Broken lamp"
    mine = home.owner.get("/placements/boxes")["items"]
    assert mine[1]["told"]["live"] == 0, "the flow there is in another workspace"
    found = home.owner.get("/placements/search?text=lamp&workspace=*")["items"]
    assert [one["id"] for one in found[1]["told"]["flows"]] == ["broken-lamp"]
    assert home.owner("GET", "/placements/search").status_code == 422


def test_a_step_that_waits_is_listed(home: Home, laptop: LocalKernel) -> None:
    body = {**flow(node("a", "log", needs="device:robot")), "name": "Waits"}
    saved = home.owner.do("POST", "/flows", {"flow": body, "deploy": True})
    assert saved["notes"] == ["device:robot: nobody has device:robot"], "saved all the same, and told"
    home.owner.do("POST", "/flows/waits/runs", {})
    (step,) = wait_for(lambda: home.owner.get("/placements")["steps"], "the step")
    assert (step["node"], step["needs"], step["state"]) == ("a", ["device:robot"], "waiting")
    assert home.owner.get("/placements?workspace=other")["steps"] == []
    home.owner.do("POST", f"/runs/{step['run']}/cancel", {})
    checked = home.owner.do("POST", "/flows/validate", {"flow": flow(node("a", "log", needs="model:x"))})
    assert checked["ok"] and checked["notes"] == ["model:x: nobody has model:x"]


def test_a_flow_is_sent(home: Home, laptop: LocalKernel) -> None:
    home.save({**flow(node("a", "log", {"message": "{{ secrets.mail }}"})), "name": "Greenhouse"})
    before = home.owner.get("/flows/greenhouse/send?to=laptop")
    assert before == {"peer": "laptop", "workspace": "default", "secrets": ["mail"]}
    assert laptop.kernel is not None and not laptop.kernel.store.flows.list(None, "", "greenhouse", "", 10).items
    assert home.owner("GET", "/flows/greenhouse/send?to=desk").status_code == 422
    sent = home.owner.do("POST", "/flows/greenhouse/send", {"to": "laptop"})
    assert (sent["peer"], sent["flow"], sent["versions"], sent["secrets"]) == ("laptop", "greenhouse", 1, ["mail"])
    assert laptop.kernel is not None and laptop.kernel.store.flows.get("greenhouse").live is None
    moved = home.owner.do("POST", "/flows/greenhouse/send", {"to": "laptop", "move": True})
    assert moved["moved"]
    shown = home.owner.get("/flows/greenhouse")
    assert (shown["enabled"], shown["folder"]) == (False, "moved to laptop")
    actions = [entry["action"] for entry in home.owner.get("/audit")["items"]]
    assert {"flow.send", "flow.copy", "flow.move"} <= set(actions)
    assert home.owner("POST", "/flows/greenhouse/send", {"to": "desk"}).status_code == 422
    assert home.owner("POST", "/flows/nothing/send", {"to": "laptop"}).status_code == 404


def test_who_may(home: Home, laptop: LocalKernel) -> None:
    reader, _ = home.person("reader")
    assert reader("GET", "/placements/boxes").status_code == 200
    assert reader("GET", "/placements").status_code == 200
    assert reader("POST", "/flows/greenhouse/send", {"to": "laptop"}).status_code == 403
    assert reader("GET", "/flows/greenhouse/send?to=laptop").status_code == 403
    assert home.anonymous("GET", "/placements/boxes").status_code == 401
