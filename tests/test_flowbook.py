"""Saving and deploying flows as the gateway and the command line do it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.flowbook import FlowBook, InvalidFlow, readable
from appliance.kernel.client import KernelClient
from appliance.registry import Registry
from appliance.security.audit import AuditLog
from appliance.security.keys import init_keys
from appliance.security.roles import local_identity
from appliance.store.errors import Conflict, NotFound
from appliance.store.metadata import Store, open_store
from appliance.world import Machine
from tests.support.flows import compute, flow, node

ME = local_identity("ada")


class Home:
    """A data folder with a book over it."""

    def __init__(self, data: Path, store: Store) -> None:
        self.store = store
        self.audit = AuditLog(store.audit, data)
        self.client = KernelClient(data)
        self.book = FlowBook(store, Registry().scan(), self.audit, self.client)

    def actions(self) -> list[str]:
        return [entry.action for entry in self.store.audit.entries()]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    init_keys(tmp_path)
    store = open_store(tmp_path)
    made = Home(tmp_path, store)
    yield made
    made.client.close()
    store.close()


def hook(path: str = "", trigger_id: str = "w") -> dict[str, Any]:
    return {"id": trigger_id, "type": "webhook", "config": {"path": path} if path else {}}


def hooked(*triggers: dict[str, Any], name: str = "hooked") -> dict[str, Any]:
    return {**flow(compute("a", "payload")), "name": name, "triggers": list(triggers)}


def path_of(body: dict[str, Any], index: int = 0) -> str:
    found = body["triggers"][index]["config"]["path"]
    assert isinstance(found, str)
    return found


def test_saves_deploys_and_audits_together(home: Home) -> None:
    saved = home.book.save(flow(compute("a", "1")), by=ME, message="first", deploy=True)
    assert saved.flow.id == "test"
    assert saved.flow.live == saved.version.id
    assert not saved.kernel
    assert home.actions() == ["flow.save", "flow.deploy"]
    assert home.audit.verify().ok
    assert saved.version.author == "local:ada"


def test_the_same_body_again_changes_and_audits_nothing(home: Home) -> None:
    first = home.book.save(flow(compute("a", "1")), by=ME, deploy=True)
    again = home.book.save(flow(compute("a", "1")), by=ME, flow_id="test", base=1, deploy=True)
    assert again.version == first.version
    assert home.actions() == ["flow.save", "flow.deploy"]


def test_every_problem_is_told_and_nothing_is_kept(home: Home) -> None:
    with pytest.raises(InvalidFlow) as caught:
        home.book.save(flow(node("a", "transfrom"), node("b", "nothing")), by=ME)
    assert [problem.path for problem in caught.value.problems] == ["nodes[0].type", "nodes[1].type"]
    assert "nodes[0].type" in caught.value.message and "1 more" in caught.value.message
    assert not home.store.flows.list().items
    assert home.actions() == []


@pytest.mark.parametrize("body", [None, 7, "text", [1]])
def test_what_is_no_object_is_no_flow(home: Home, body: Any) -> None:
    with pytest.raises(InvalidFlow):
        home.book.save(body, by=ME)
    with pytest.raises(InvalidFlow):
        home.book.import_flow(body, by=ME)


def test_a_conflict_names_both_versions(home: Home) -> None:
    home.book.save(flow(compute("a", "1")), by=ME)
    home.book.save(flow(compute("a", "2")), by=ME, flow_id="test", base=1)
    with pytest.raises(Conflict) as caught:
        home.book.save(flow(compute("a", "3")), by=ME, flow_id="test", base=1)
    assert caught.value.detail == {"yours": 1, "newest": 2}
    assert home.actions() == ["flow.save", "flow.save"]


def test_a_webhook_without_a_path_gets_one_and_keeps_it(home: Home) -> None:
    first = home.book.save(hooked(hook()), by=ME, deploy=True)
    path = path_of(first.version.body)
    assert len(path) >= 32
    again = home.book.save(hooked(hook()), by=ME, flow_id="hooked", base=1, deploy=True)
    assert again.version == first.version
    changed = home.book.save({**hooked(hook()), "description": "x"}, by=ME, flow_id="hooked", base=1)
    assert path_of(changed.version.body) == path
    assert path_of(home.book.save(hooked(hook(), name="other"), by=ME).version.body) != path


def test_a_path_has_one_owner(home: Home) -> None:
    home.book.save(hooked(hook("garden-gate-123")), by=ME, deploy=True)
    body = hooked(hook("garden-gate-123"), name="thief")
    with pytest.raises(InvalidFlow) as caught:
        home.book.save(body, by=ME)
    assert caught.value.problems[0].path == "triggers[0].config.path"
    assert "'hooked'" in caught.value.problems[0].message
    with pytest.raises(InvalidFlow, match=r"triggers\[0\]"):
        home.book.save(hooked(hook("the-same-path"), hook("the-same-path", "x"), name="twice"), by=ME)


def test_two_drafts_may_share_a_path_until_one_is_live(home: Home) -> None:
    for name in ("one", "two"):
        home.book.save(hooked(hook("garden-gate-123"), name=name), by=ME)
    home.book.deploy("one", None, by=ME)
    with pytest.raises(InvalidFlow, match="'one'"):
        home.book.deploy("two", None, by=ME)
    home.book.undeploy("one", by=ME)
    assert home.book.deploy("two", None, by=ME).flow.live_number == 1


def test_an_import_brings_a_new_path_where_its_own_is_taken(home: Home) -> None:
    home.book.save(hooked(hook("garden-gate-123")), by=ME, deploy=True)
    copy = home.book.import_flow(hooked(hook("garden-gate-123")), by=ME, deploy=True)
    assert copy.flow.id == "hooked-2"
    assert path_of(copy.version.body) != "garden-gate-123"
    assert "new path" in copy.notes[0]


def test_an_import_reads_older_forms(home: Home) -> None:
    old = {
        "nodes": [{"id": "a", "module_id": "log", "config_values": {"message": "hi"}}],
        "connections": [],
        "title": "Old one",
    }
    saved = home.book.import_flow(old, by=ME)
    assert saved.version.body == {
        "name": "Old one",
        "nodes": [{"id": "a", "type": "log", "config": {"message": "hi"}}],
        "edges": [],
    }
    assert "older form" in saved.notes[0]
    assert readable(saved.version.body) == (saved.version.body, [])


def test_rollback_goes_back_further_each_time(home: Home) -> None:
    for number in range(1, 4):
        home.book.save(flow(compute("a", str(number))), by=ME, flow_id="test", base=number - 1 or None, deploy=True)
    assert home.book.rollback("test", by=ME).flow.live_number == 2
    assert home.book.rollback("test", by=ME).flow.live_number == 1
    with pytest.raises(NotFound, match="no earlier version"):
        home.book.rollback("test", by=ME)
    assert home.book.rollback("test", 3, by=ME).flow.live_number == 3
    home.book.undeploy("test", by=ME)
    assert home.book.rollback("test", by=ME).flow.live_number == 3


def test_an_old_version_is_checked_when_it_is_deployed(home: Home) -> None:
    home.store.flows.save(None, "default", flow(node("a", "gone")), "somebody")
    with pytest.raises(InvalidFlow, match=r"nodes\[0\].type"):
        home.book.deploy("test", 1, by=ME)
    assert home.store.flows.get("test").live is None


def test_switching_and_deleting_are_audited_once(home: Home) -> None:
    home.book.save(flow(compute("a", "1")), by=ME, deploy=True)
    assert not home.book.enable("test", False, by=ME).flow.enabled
    home.book.enable("test", False, by=ME)
    home.book.enable("test", True, by=ME)
    home.book.undeploy("test", by=ME)
    home.book.undeploy("test", by=ME)
    home.book.delete("test", by=ME)
    assert home.actions()[2:] == ["flow.disable", "flow.enable", "flow.undeploy", "flow.delete"]
    with pytest.raises(NotFound):
        home.book.delete("test", by=ME)
    assert home.audit.verify().ok


def test_a_subflow_must_exist_in_the_same_workspace_or_be_the_flow_itself(home: Home) -> None:
    calls = flow(node("s", "subflow", {"flow": "other"}))
    with pytest.raises(InvalidFlow, match="no flow 'other'"):
        home.book.save(calls, by=ME)
    home.book.save({**flow(compute("a", "1")), "name": "other"}, by=ME, workspace="elsewhere")
    with pytest.raises(InvalidFlow, match="no flow 'other'"):
        home.book.save(calls, by=ME)
    own = {**flow(node("s", "subflow", {"flow": "loop"})), "name": "loop"}
    assert home.book.save(own, by=ME, flow_id="loop").flow.id == "loop"


def test_the_machine_knows_what_is_installed() -> None:
    machine = Machine(lambda name: name == "here")
    assert machine.has_program("sh") and not machine.has_program("no-such-program")
    assert machine.has_module("json") and not machine.has_module("no_such.module")
    assert "bash" in machine.languages()
    assert machine.languages() is machine.languages()
    assert machine.flow_exists("here") and not machine.flow_exists("there")
    assert machine.confined() in {True, False}


def test_a_draft_may_have_faults_and_cannot_be_deployed(home: Home) -> None:
    saved = home.book.save(flow(node("a", "transfrom")), by=ME, draft=True)
    assert saved.version.number == 1
    with pytest.raises(InvalidFlow):
        home.book.deploy(saved.flow.id, 1, by=ME)
    with pytest.raises(InvalidFlow):
        home.book.save(flow(node("a", "transfrom")), by=ME, draft=True, deploy=True, flow_id="other")
