"""Peers over the API: a real kernel here, another engine's peers at the other end, and who may do what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import PeerRoles
from tests.fleet.peers.rig import Engine, Engines, engines, until
from tests.gateway.engine import Home, wait_for
from tests.gateway.served import Served, watching
from tests.support.broker import free_port
from tests.support.flows import compute, flow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An engine whose kernel says nothing to any network but the loopback."""
    made = Home(tmp_path_factory.mktemp("engine"))
    values = {"peer_port": free_port(), "peer_discovery": "never", "engine_name": "Kitchen"}
    made.owner.do("PATCH", "/settings", {"values": {**values, "rate_limit": 10_000, "rate_burst": 10_000}})
    made.start_kernel()
    yield made
    made.close()


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Engines]:
    with engines(tmp_path) as made:
        yield made


@pytest.fixture
def laptop(home: Home, others: Engines) -> Iterator[Engine]:
    """Another engine, paired with this one under the name laptop."""
    made = others("laptop")
    code = made.peers.pair("", None).code
    home.owner.do("POST", "/peers/join", {"code": code, "address": made.address})
    wait_for(lambda: home.owner.get("/peers/laptop")["state"] == "connected", "the link")
    yield made
    home.owner.do("DELETE", "/peers/idlaptop")


def test_this_engine_comes_first_and_a_peer_says_who_it_is(home: Home, laptop: Engine) -> None:
    own, peer = home.owner.get("/peers")["items"]
    assert (own["name"], own["state"]) == ("Kitchen", "self")
    assert (peer["id"], peer["fingerprint"]) == ("idlaptop", laptop.peers.presence.me().fingerprint)
    assert (peer["url"], peer["roles"]) == ("http://127.0.0.1:5000", {"rights": ["models"], "workspaces": []})
    assert home.owner.get("/peers/idlaptop")["name"] == "laptop"
    assert home.owner("GET", "/peers/nobody").status_code == 404


def test_a_code_is_made_here_shown_once_and_taken_there(home: Home, others: Engines) -> None:
    robot = others("robot")
    asked = {"name": "r2", "minutes": 5, "roles": {"rights": ["events"], "workspaces": ["home"]}}
    made = home.owner.do("POST", "/peers/pairings", asked)
    (waiting,) = home.owner.get("/peers/pairings")["items"]
    assert "code" not in waiting
    assert (waiting["name"], waiting["roles"]) == ("r2", asked["roles"])
    robot.peers.join(made["code"], f"127.0.0.1:{made['port']}", "", None).result(20)
    wait_for(lambda: home.owner.get("/peers/r2")["state"] == "connected", "the link")
    assert home.owner.get("/peers/r2")["roles"] == asked["roles"]
    assert home.owner.get("/peers/pairings")["items"] == []
    home.owner.do("DELETE", "/peers/r2")
    until(lambda: (state := robot.state("kitchen")) is not None and state.state == "refused", "the refusal")
    actions = [entry["action"] for entry in home.owner.get("/audit")["items"]]
    assert {"peer.pair", "peer.paired", "peer.revoke"} <= set(actions)


def test_a_pairing_can_be_ended_and_a_wrong_code_is_told(home: Home, others: Engines) -> None:
    home.owner.do("POST", "/peers/pairings", {})
    home.owner.do("DELETE", "/peers/pairings/-")
    assert home.owner("DELETE", "/peers/pairings/-").status_code == 404
    robot = others("robot")
    code = robot.peers.pair("", None).code
    wrong = code[:-1] + str((int(code[-1]) + 1) % 10)
    refused = home.owner("POST", "/peers/join", {"code": wrong, "address": robot.address})
    assert (refused.status_code, "the code is not right" in refused.get_json()["detail"]) == (422, True)
    nobody = home.owner("POST", "/peers/join", {"code": code, "address": "127.0.0.1:1"})
    assert nobody.status_code == 503
    assert home.owner("POST", "/peers/join", {"code": "12"}).status_code == 422


def test_what_it_may_and_how_it_is_called_can_be_changed(home: Home, laptop: Engine) -> None:
    roles = {"rights": ["flows", "run"], "workspaces": ["*"]}
    changed = home.owner.do("PATCH", "/peers/laptop", {"roles": roles, "name": "den"})
    assert changed["name"] == "den"
    assert set(changed["roles"]["rights"]) == {"flows", "run"}
    until(lambda: (state := laptop.state("kitchen")) is not None and state.allows.may("run", "x"), "what it may")
    assert home.owner("PATCH", "/peers/den", {"roles": {"rights": ["everything"]}}).status_code == 422
    assert home.owner("PATCH", "/peers/den", {"name": "No Name"}).status_code == 422
    home.owner.do("PATCH", "/peers/den", {"name": "laptop"})


def test_admins_of_the_engine_see_and_manage_peers_and_nobody_else(home: Home, laptop: Engine) -> None:
    browser = {"X-Flowork": "1"}
    admin, local, runner = home.person("admin", "*")[0], home.person("admin")[0], home.person("runner", "*")[0]
    assert admin("GET", "/peers").status_code == 200
    for person in (local, runner, home.caller(["devices", "flows:write"])):
        assert person("GET", "/peers").status_code == 403
        assert person("POST", "/peers/pairings", {}, headers=browser).status_code == 403
        assert person("PATCH", "/peers/laptop", {"roles": {"rights": ["run"]}}, headers=browser).status_code == 403
        assert person("DELETE", "/peers/laptop", headers=browser).status_code == 403
    assert home.anonymous("GET", "/peers").status_code == 401
    assert admin("POST", "/peers/look", headers=browser).status_code == 204


def test_peers_are_told_live_to_those_who_may_see_them(home: Home, laptop: Engine) -> None:
    served = Served(home.data, threads=19)
    home.save(flow(compute("a", "1"), name="Beat"))
    try:
        blind = home.caller(["runs:read", "runs:write"])
        with (
            watching(served, headers=home.owner.headers) as panel,
            watching(served, headers=blind.headers) as other,
        ):
            for each in (panel, other):
                each.until(lambda event: event["type"] == "hello")
            laptop.peers.allow("kitchen", PeerRoles(rights=frozenset({"run"})))
            told = panel.until(lambda event: event["type"] == "peer" and event["peer"]["allows"]["rights"] == ["run"])
            assert told["peer"]["name"] == "laptop"
            laptop.peers.stop()
            panel.until(lambda event: event["type"] == "peer" and event["peer"]["state"] == "away")
            run = home.owner.do("POST", "/flows/beat/runs", {"wait": 10})["run"]
            other.until(lambda event: event.get("run") == run)
            assert not [event for event in other.events if event["type"] == "peer"]
    finally:
        served.stop()


def test_without_a_kernel_nothing_is_known(make_home: Callable[..., Home]) -> None:
    home: Any = make_home()
    for path in ("/peers", "/peers/laptop", "/peers/pairings"):
        assert home.owner("GET", path).status_code == 503
