"""Flows and versions: saving, conflicts, ids, lists, and what is live."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from appliance.contracts import ConfigError
from appliance.store.errors import Conflict, NotFound, StoreError
from appliance.store.metadata import Store, open_store
from appliance.store.tables import VERSION
from tests.store.stores import Clock, body, here, open_database


def test_a_saved_flow_is_there_after_a_restart(data: Path, clock: Clock) -> None:
    first = open_store(data, environ=here(), now=clock)
    saved = first.flows.save(None, "default", body(tags=["b", "a", "b"]), "user:0x1", "first")
    first.close()
    second = open_store(data, environ=here(), now=clock)
    flow = second.flows.get("greenhouse-guard")
    assert (flow.name, flow.workspace, flow.tags, flow.newest) == (
        "Greenhouse guard",
        "default",
        ("a", "b"),
        1,
    )
    assert flow.live is None
    assert flow.live_number is None
    assert flow.enabled is True
    assert flow.created == clock.time
    assert second.flows.version(saved.id) == saved
    assert (saved.number, saved.author, saved.message) == (1, "user:0x1", "first")
    second.close()


def test_a_body_is_kept_as_given(store: Store) -> None:
    given = {"zeta": [1, 1.0, None, "ü\u0000\u2028"], "name": "x", "a": {"c": 1, "b": 2}, "spec": "# Why"}
    version = store.flows.save(None, "default", given, "me")
    assert list(version.body) == ["zeta", "name", "a", "spec"]
    assert version.body == given
    assert json.loads(store.flows.version(version.id).text) == given
    assert version.spec == "# Why"


def test_a_save_on_an_older_version_is_a_conflict_with_both_numbers(store: Store) -> None:
    first = store.flows.save(None, "default", body(), "a")
    id_ = store.flows.get("greenhouse-guard").id
    second = store.flows.save(id_, "default", body(nodes=[]), "a", base=first.number)
    with pytest.raises(Conflict) as caught:
        store.flows.save(id_, "default", body(edges=[1]), "b", base=1)
    assert (caught.value.yours, caught.value.newest) == (1, 2)
    assert "version 1" in str(caught.value)
    assert "version 2" in str(caught.value)
    with pytest.raises(Conflict) as caught:
        store.flows.save(id_, "default", body(edges=[1]), "b", base=None)
    assert (caught.value.yours, caught.value.newest) == (None, 2)
    with pytest.raises(Conflict):
        store.flows.save(id_, "default", body(edges=[1]), "b", base=3)
    assert store.flows.numbered(id_).id == second.id


def test_the_same_body_again_makes_no_version(store: Store) -> None:
    first = store.flows.save(None, "default", body(), "a")
    reordered = dict(reversed(body().items()))
    assert store.flows.save("greenhouse-guard", "default", reordered, "b", base=1) == first
    # A request that is repeated because its answer was lost is not a conflict.
    second = store.flows.save("greenhouse-guard", "default", body(nodes=[]), "a", base=1)
    assert store.flows.save("greenhouse-guard", "default", body(nodes=[]), "a", base=1) == second
    assert [head.number for head in store.flows.versions("greenhouse-guard")] == [2, 1]
    # Going back to an older body is a new version.
    assert store.flows.save("greenhouse-guard", "default", body(), "a", base=2).number == 3


@pytest.mark.parametrize("bad", [{}, {"name": ""}, {"name": "  "}, {"name": 3}, {"name": "x", "y": object()}])
def test_a_body_that_cannot_be_kept_is_refused(store: Store, bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        store.flows.save(None, "default", bad, "a")
    assert store.flows.list().items == []


def test_text_that_is_not_unicode_is_refused_and_nothing_is_written(store: Store) -> None:
    with pytest.raises((ConfigError, StoreError)):
        store.flows.save(None, "default", {"name": "x", "nodes": ["\ud800"]}, "a")
    with pytest.raises(StoreError):
        store.flows.save(None, "default", body(), "a\ud800")
    assert store.flows.list().items == []


def test_ids_are_unique_ascii_and_survive_a_rename(store: Store) -> None:
    names = ["Gewächshaus: Süd!", "gewächshaus süd", "GEWÄCHSHAUS--SÜD", "温室", "🌱", "x" * 300]
    for name in names:
        store.flows.save(None, "default", body(name), "a")
    ids = {flow.name: flow.id for flow in store.flows.list().items}
    assert [ids[name] for name in names] == [
        "gewachshaus-sud",
        "gewachshaus-sud-2",
        "gewachshaus-sud-3",
        "flow",
        "flow-2",
        "x" * 48,
    ]
    store.flows.save("flow", "default", body("Greenhouse"), "a", base=1)
    assert store.flows.get("flow").name == "Greenhouse"


def test_an_import_brings_its_own_id(store: Store) -> None:
    assert store.flows.save("my-flow", "default", body("Other name"), "a").number == 1
    assert store.flows.get("my-flow").name == "Other name"
    for bad in ("", "My", "a b", "-a", "x" * 64, "ü", "a/b"):
        with pytest.raises(ConfigError):
            store.flows.save(bad, "default", body(), "a")
    with pytest.raises(NotFound):
        store.flows.save("not-there", "default", body(), "a", base=4)


def test_a_flow_of_another_workspace_is_not_there(store: Store) -> None:
    store.flows.save("mine", "home", body(), "a")
    with pytest.raises(NotFound):
        store.flows.save("mine", "work", body(nodes=[]), "b", base=1)
    assert store.flows.numbered("mine").number == 1


def test_a_version_cannot_be_changed_or_deleted_even_by_sql(store: Store, data: Path) -> None:
    saved = store.flows.save("f", "default", body(), "a")
    db = open_database(data)
    with pytest.raises(StoreError, match="never changed"), db.write():
        db.run(VERSION.update(body="{}").where(VERSION.id == saved.id))
    with pytest.raises(StoreError, match="as long as its flow"), db.write():
        db.run(VERSION.delete().where(VERSION.id == saved.id))
    assert store.flows.version(saved.id) == saved
    store.flows.delete("f", "a")
    with db.write():
        assert db.run(VERSION.delete().where(VERSION.id == saved.id)) == 1
    db.close()


def test_deploying_moves_the_pointer_and_remembers_who(store: Store, clock: Clock) -> None:
    one = store.flows.save("f", "default", body(), "a")
    two = store.flows.save("f", "default", body(nodes=[]), "a", base=1)
    assert store.flows.live() == []
    assert store.flows.deploy("f", 2, "ann").live == two.id
    clock.time += 60
    assert store.flows.deploy("f", 1, "bob").live_number == 1
    assert [(flow.id, version) for flow, version in store.flows.live()] == [("f", one)]
    store.flows.undeploy("f", "cy")
    assert store.flows.live() == []
    history = store.flows.deployments("f")
    assert [(d.action, d.before, d.after, d.who) for d in history] == [
        ("undeploy", one.id, None, "cy"),
        ("deploy", two.id, one.id, "bob"),
        ("deploy", None, two.id, "ann"),
    ]
    assert history[1].at - history[2].at == 60
    assert store.flows.deployments("f", before=history[0].id, limit=1) == [history[1]]
    with pytest.raises(NotFound, match="newest is 2"):
        store.flows.deploy("f", 3, "ann")


def test_the_counter_moves_only_when_something_did(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    before = store.flows.change_counter()
    store.flows.deploy("f", 1, "a")
    store.flows.deploy("f", 1, "a")
    assert store.flows.change_counter() == before + 1
    store.flows.enable("f", False, "a")
    store.flows.enable("f", False, "a")
    assert store.flows.change_counter() == before + 2
    (flow, _), *_ = store.flows.live()
    assert flow.enabled is False
    store.flows.delete("f", "a")
    assert store.flows.change_counter() == before + 3
    assert store.changes()["deployments"] == before + 3


def test_a_deleted_flow_frees_its_id_and_keeps_its_versions(store: Store) -> None:
    saved = store.flows.save("f", "default", body(tags=["t"]), "a")
    store.flows.deploy("f", 1, "a")
    num = store.flows.get("f").num
    store.flows.delete("f", "b")
    for call in (
        lambda: store.flows.get("f"),
        lambda: store.flows.deploy("f", 1, "a"),
        lambda: store.flows.versions("f"),
        lambda: store.flows.delete("f", "a"),
        lambda: store.flows.save("f", "default", body(), "a", base=1),
    ):
        with pytest.raises(NotFound):
            call()
    assert store.flows.version(saved.id).text == saved.text
    assert store.flows.by_num(num).deleted is not None
    assert store.flows.live() == []
    assert store.flows.tags() == {}
    assert store.flows.save("f", "default", body(), "a").flow != num


def test_lists_page_search_and_filter(store: Store) -> None:
    for index in range(25):
        store.flows.save(None, "home", body(f"Flow {index:02}", tags=["even"] if index % 2 == 0 else []), "a")
    store.flows.save(None, "work", body("ÄRGER 100% _x"), "a")
    names, cursor = [], ""
    while True:
        page = store.flows.list("home", after=cursor, limit=10)
        names += [flow.name for flow in page.items]
        cursor = page.next
        if not cursor:
            break
    assert names == [f"Flow {index:02}" for index in range(25)]
    assert len(store.flows.list("home", tag="even", limit=500).items) == 13
    assert [flow.name for flow in store.flows.list(search="ärger").items] == ["ÄRGER 100% _x"]
    assert [flow.name for flow in store.flows.list(search="100% _").items] == ["ÄRGER 100% _x"]
    assert store.flows.list(search="%").items == store.flows.list("work").items
    assert store.flows.list(search="flow_").items == []
    assert store.flows.tags("home") == {"even": 13}
    for bad in ("zzz", "!!", "W10", "\u00fc", "WzEsMl0"):
        with pytest.raises(ConfigError, match="cursor"):
            store.flows.list(after=bad)


def test_folders(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    assert store.flows.move("f", "garden/water").folder == "garden/water"
    with pytest.raises(NotFound):
        store.flows.move("g", "x")


def test_several_calls_are_one(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    with pytest.raises(RuntimeError, match="no"), store.atomically():
        store.flows.deploy("f", 1, "a")
        assert store.flows.get("f").live_number == 1
        raise RuntimeError("no")
    assert store.flows.get("f").live is None
    assert store.flows.change_counter() == 0


def test_of_many_savers_at_once_one_wins_each_round(store: Store, data: Path) -> None:
    store.flows.save("f", "default", body(), "a")
    others = [open_store(data, environ=here()) for _ in range(3)]
    outcomes: list[str] = []

    def save(mine: Store, who: int) -> None:
        for attempt in range(10):
            try:
                base = mine.flows.get("f").newest
                mine.flows.save("f", "default", body(nodes=[who, attempt]), str(who), base=base)
                outcomes.append("saved")
            except Conflict:
                outcomes.append("conflict")

    threads = [threading.Thread(target=save, args=(mine, who)) for who, mine in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 30
    assert store.flows.get("f").newest == 1 + outcomes.count("saved")
    numbers = [head.number for head in store.flows.versions("f", limit=100)]
    assert numbers == list(range(len(numbers), 0, -1))
    for other in others:
        other.close()
