"""``flowork peer``, with a real kernel here and another engine's peers at the other end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import PeerRoles
from appliance.kernel.kernel import Kernel
from appliance.paths import EngineLock
from appliance.security.keys import read_engine
from appliance.store.metadata import open_store
from tests.commands.box import Box
from tests.fleet.peers.rig import PATIENCE, Engines, engines, until
from tests.support.broker import eventually, free_port


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel says nothing to any network but the loopback."""
    monkeypatch.setenv("FLOWORK_PEER_DISCOVERY", "never")
    monkeypatch.setenv("FLOWORK_PEER_PORT", str(free_port()))
    monkeypatch.setenv("FLOWORK_ENGINE_NAME", "Kitchen")


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Engines]:
    with engines(tmp_path / "others") as made:
        yield made


def here(kernel: Kernel) -> str:
    assert kernel.peers is not None
    return f"127.0.0.1:{kernel.peers.here.gate._port}"


def audited(box: Box, action: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [row for row in box.json("audit", "list")["items"] if row["action"] == action]
    return found


def test_a_code_is_shown_and_taken_and_who_came_is_said(box: Box, kernel: Kernel, others: Engines) -> None:
    """The command waits until somebody has come."""
    laptop = others("laptop")
    said: list[str] = []

    def pair() -> None:
        with box.process("peer", "pair", "--name", "den", "--allow", "run", "--workspace", "home") as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
            assert process.wait(PATIENCE) == 0

    thread = threading.Thread(target=pair)
    thread.start()
    eventually(lambda: any(line.startswith("code") for line in said), "the code")
    code = next(line.split()[1] for line in said if line.startswith("code"))
    laptop.peers.join(code, here(kernel), "", None).result(PATIENCE)
    thread.join(PATIENCE)
    assert f"paired with den (id idlaptop, fingerprint {laptop.peers.presence.me().fingerprint[:16]}" in said[-1]
    state = box.json("peer", "show", "den")
    assert state["roles"] == {"rights": ["run"], "workspaces": ["home"]}
    assert [row["detail"]["rights"] for row in audited(box, "peer.pair")] == [["run"]]
    assert audited(box, "peer.paired")[0]["target"] == "idlaptop"


def test_a_code_of_another_is_taken_and_then_it_is_listed_allowed_renamed_revoked(
    box: Box, kernel: Kernel, others: Engines
) -> None:
    laptop = others("laptop")
    code = laptop.peers.pair("", PeerRoles(rights=frozenset({"models"}))).code
    assert "paired with laptop" in box.run("peer", "join", code, laptop.address, "--allow", "events")
    eventually(lambda: "connected" in box.run("peer"), "the link")
    row = next(line for line in box.run("peer", "list").splitlines() if "laptop" in line)
    assert "events (in default)" in row
    assert "models" in row
    assert "Kitchen" in box.run("peer", "list")
    assert "run (in *)" in box.run("peer", "allow", "laptop", "--allow", "run", "--workspace", "*")
    until(lambda: (s := laptop.state("kitchen")) is not None and s.allows.may("run", "any"), "what it may")
    assert "may here: nothing" in box.run("peer", "allow", "laptop", "--allow", "nothing")
    assert "say what it may" in box.fails("peer", "allow", "laptop")
    assert "goes with no other" in box.fails("peer", "allow", "laptop", "--allow", "nothing", "--allow", "run")
    box.run("peer", "rename", "laptop", "den")
    shown = box.run("peer", "show", "den")
    assert "idlaptop" in shown
    assert laptop.peers.presence.me().fingerprint in shown
    assert "no peer 'laptop'" in box.fails("peer", "show", "laptop", code=3)
    box.run("peer", "revoke", "den", "--yes")
    until(lambda: (s := laptop.state("kitchen")) is not None and s.state == "refused", "the refusal")
    assert [peer["state"] for peer in box.json("peer", "list")["items"]] == ["self"]
    actions = [row["action"] for row in box.json("audit", "list")["items"]]
    assert {"peer.join", "peer.allow", "peer.rename", "peer.revoke"} <= set(actions)


def test_a_pairing_that_nobody_needs_any_more_is_ended(box: Box, kernel: Kernel) -> None:
    code = box.json("peer", "pair", "--no-wait", "--name", "den")["code"]
    assert "den: waits to be paired" in box.run("peer", "list")
    assert code not in box.run("peer", "list")
    assert "not valid any more" in box.run("peer", "unpair", "den")
    assert "no such pairing" in box.run("peer", "unpair", "den")
    assert "is not a pairing code" in box.fails("peer", "join", "12")
    assert "refused" in box.fails("peer", "join", "1-234-567", "127.0.0.1:1")
    assert box.json("peer", "find", "--for", "0s")["items"] == []


def test_what_is_not_well_with_peers_is_told(box: Box, kernel: Kernel, others: Engines) -> None:
    laptop = others("laptop")
    box.run("peer", "join", laptop.peers.pair("", None).code, laptop.address)
    eventually(lambda: "connected" in box.run("peer"), "the link")
    laptop.peers.revoke("kitchen")
    eventually(lambda: "refused" in box.run("peer"), "the refusal")
    assert "remove it here too" in box.run("peer", "list")
    findings = {finding["id"]: finding for finding in box.json("doctor", code=1)["findings"]}
    assert "ended by its owner" in findings["peer-refused"]["text"]


def test_a_copy_gets_an_identity_of_its_own_and_rests(box: Box, others: Engines) -> None:
    before = read_engine(box.folder)
    store = open_store(box.folder)
    flows = [flow.id for flow in store.flows.list().items]
    store.close()
    for known in ("peers", "agents"):
        (box.folder / "keys" / known).mkdir(exist_ok=True)
        (box.folder / "keys" / known / "link.key").write_text("of the original")
    made = box.json("peer", "new-identity", "--yes")
    after = read_engine(box.folder)
    assert made == {"id": after.id, "before": before.id}
    assert after.address != before.address
    assert not list((box.folder / "keys" / "peers").glob("*"))
    assert not list((box.folder / "keys" / "agents").glob("*"))
    store = open_store(box.folder)
    assert [flow.id for flow in store.flows.list().items] == flows
    store.close()
    assert "safe mode" in box.json("doctor", code=2)["findings"][0]["text"]
    assert audited(box, "engine.new-identity")[0]["detail"] == {"before": before.id}
    with EngineLock(box.folder, "kernel"):
        assert "is running" in box.fails("peer", "new-identity", "--yes", code=4)


def test_without_a_kernel_it_is_said_how_to_start_one(box: Box) -> None:
    assert "flowork up" in box.fails("peer", "list", code=5)
