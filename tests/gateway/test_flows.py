"""Saving, deploying, comparing and rolling back flows over the API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.engine import Home
from tests.support.flows import compute, edges, flow, node


def body(name: str, expression: str = "1", **more: Any) -> dict[str, Any]:
    return {**flow(compute("a", expression)), "name": name, **more}


def test_a_flow_is_saved_shown_and_listed(home: Home) -> None:
    response = home.owner("POST", "/flows", {"flow": body("Greenhouse guard", tags=["garden"]), "message": "first"})
    assert response.status_code == 201
    made = response.get_json()
    assert made["id"] == "greenhouse-guard"
    assert response.headers["Location"] == "/api/v1/flows/greenhouse-guard"
    assert (made["newest"], made["live"], made["version"]["message"]) == (1, None, "first")
    assert made["version"]["author"].startswith("token:")
    assert made["kernel"] is True
    shown = home.owner.get("/flows/greenhouse-guard")
    assert shown["flow"] == made["flow"]
    listed = home.owner.get("/flows?search=GREEN&tag=garden&recent=true")["items"]
    assert [item["id"] for item in listed] == ["greenhouse-guard"]
    assert listed[0]["recent"] == []


def test_lists_come_in_pages(home: Home) -> None:
    names = [home.save(body(f"Paged {index}"), workspace="pages") for index in range(5)]
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = home.owner.get(f"/flows?workspace=pages&limit=2&cursor={cursor}")
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == names
    assert cursor == ""


def test_all_faults_are_told_at_once(home: Home) -> None:
    wrong = flow(node("a", "transfrom"), node("b", "delay", {"forr": 1}), links=edges("a>c"))
    found = home.owner("POST", "/flows", {"flow": {**wrong, "name": "wrong"}})
    assert found.status_code == 422
    problems = {fault["path"]: fault["message"] for fault in found.get_json()["problems"]}
    assert "did you mean 'transform'" in problems["nodes[0].type"]
    assert "edges[0].to" in problems
    assert any(path.startswith("nodes[1].config") for path in problems)
    assert home.owner("GET", "/flows/wrong").status_code == 404


def test_validating_saves_nothing(home: Home) -> None:
    checked = home.owner.do("POST", "/flows/validate", {"flow": {"name": "x", "nodes": []}})
    assert not checked["ok"]
    assert checked["problems"][0]["path"] == "nodes"
    old = {"title": "Old one", "nodes": [{"id": "a", "module_id": "log", "config_values": {}}], "connections": []}
    checked = home.owner.do("POST", "/flows/validate", {"flow": old})
    assert checked["flow"]["nodes"][0]["type"] == "log"
    assert checked["notes"]


def test_an_old_form_is_converted_on_import(home: Home) -> None:
    old = {
        "name": "From long ago",
        "nodes": [
            {"id": "a", "module_id": "transform", "config_values": {"expression": "payload"}},
            {"id": "b", "module_id": "log", "config_values": {}},
        ],
        "connections": [{"source": "a", "target": "b", "source_port_name": "output"}],
    }
    made = home.owner.do("POST", "/flows", {"flow": old, "deploy": True})
    assert made["flow"]["edges"] == [{"from": "a", "to": "b"}]
    assert made["notes"]
    assert home.run(made["id"], 7)["output"] == 7


def test_a_draft_may_have_faults_and_cannot_be_deployed(home: Home) -> None:
    made = home.owner.do("POST", "/flows?draft=true", {"flow": {"name": "Half done", "nodes": []}})
    refused = home.owner("POST", f"/flows/{made['id']}/deploy", {})
    assert refused.status_code == 422
    assert refused.get_json()["problems"][0]["path"] == "nodes"
    assert home.owner("POST", f"/flows/{made['id']}/runs", {}).status_code == 422


@pytest.mark.parametrize("trigger", [{"id": "w", "type": "webhook", "config": 7}, "text", {"type": []}])
def test_a_strange_draft_can_be_mended(home: Home, trigger: Any) -> None:
    strange = {"name": "strange", "nodes": [], "triggers": [trigger]}
    made = home.owner.do("POST", "/flows?draft=true", {"flow": strange})
    home.owner.get(f"/flows/{made['id']}")
    reader, _ = home.person("reader")
    reader.get(f"/flows/{made['id']}")
    edit = {"flow": body("strange", triggers=[{"id": "w", "type": "webhook"}]), "base": made["newest"]}
    mended = home.owner.do("PUT", f"/flows/{made['id']}", edit)
    assert mended["flow"]["triggers"][0]["config"]["path"]
    home.owner.do("DELETE", f"/flows/{made['id']}")


def test_nobody_s_edit_is_lost(home: Home) -> None:
    name = home.save(body("Two editors"))
    home.owner.do("PUT", f"/flows/{name}", {"flow": body("Two editors", "2"), "base": 1, "message": "mine"})
    refused = home.owner("PUT", f"/flows/{name}", {"flow": body("Two editors", "3"), "base": 1})
    assert refused.status_code == 409
    told = refused.get_json()["extra"]
    assert (told["yours"]["number"], told["newest"]["number"]) == (1, 2)
    assert told["newest"]["message"] == "mine"
    assert told["newest"]["author"].startswith("token:") and told["newest"]["created"] > told["yours"]["created"]
    assert home.owner.get(f"/flows/{name}")["newest"] == 2
    # The same again is no conflict, and no new version.
    home.owner.do("PUT", f"/flows/{name}", {"flow": body("Two editors", "2"), "base": 1})
    assert home.owner.get(f"/flows/{name}")["newest"] == 2
    # An id that is taken is no new flow.
    assert home.owner("POST", "/flows", {"flow": body("Two editors", "4"), "id": name}).status_code == 409


def test_if_match_names_the_version_that_was_edited(home: Home) -> None:
    name = home.save(body("Tagged"), deploy=False)
    tag = home.owner("GET", f"/flows/{name}").headers["ETag"]
    home.owner.do("POST", f"/flows/{name}/deploy", {})
    # A deploy in between does no harm.
    edit = {"flow": body("Tagged", "2"), "base": 1}
    saved = home.owner("PUT", f"/flows/{name}", edit, headers={"If-Match": tag})
    assert saved.status_code == 200
    stale = home.owner("PUT", f"/flows/{name}", {**edit, "base": 2}, headers={"If-Match": tag})
    assert stale.status_code == 412
    assert home.owner("PUT", f"/flows/{name}", {**edit, "base": 2}, headers={"If-Match": "*"}).status_code == 200


def test_what_has_not_changed_is_not_sent_again(home: Home) -> None:
    name = home.save(body("Not modified"))
    for path in (f"/flows/{name}", f"/flows/{name}/versions/1", "/catalog", "/openapi.json"):
        first = home.owner("GET", path)
        assert first.headers["Cache-Control"] == "private, no-cache"
        again = home.owner("GET", path, headers={"If-None-Match": f'"x", {first.headers["ETag"]}'})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
    home.owner.do("POST", f"/flows/{name}/enable", {"enabled": False})
    tag = {"If-None-Match": home.owner("GET", f"/flows/{name}").headers["ETag"]}
    home.owner.do("POST", f"/flows/{name}/enable", {"enabled": True})
    assert home.owner("GET", f"/flows/{name}", headers=tag).status_code == 200
    assert home.owner("GET", "/flows").headers["Cache-Control"] == "no-store"


def test_head_is_get_without_a_body(home: Home) -> None:
    name = home.save(body("Headed"))
    response = home.owner("HEAD", f"/flows/{name}")
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["ETag"] == home.owner("GET", f"/flows/{name}").headers["ETag"]


def test_deploy_roll_back_and_undeploy(home: Home) -> None:
    name = home.save(body("Rolling", "1"))
    home.owner.do("PUT", f"/flows/{name}", {"flow": body("Rolling", "2"), "base": 1})
    assert home.run(name)["output"] == 1
    assert home.owner.do("POST", f"/flows/{name}/deploy", {})["live"] == 2
    assert home.run(name)["output"] == 2
    assert home.owner.do("POST", f"/flows/{name}/rollback", {})["live"] == 1
    assert home.run(name)["output"] == 1
    assert home.owner.do("POST", f"/flows/{name}/deploy", {"version": 2})["live"] == 2
    assert home.owner("POST", f"/flows/{name}/deploy", {"version": 9}).status_code == 404
    assert home.owner.do("POST", f"/flows/{name}/undeploy")["live"] is None
    moves = home.owner.get(f"/flows/{name}/deployments")["items"]
    assert [(move["action"], move["before"], move["after"]) for move in moves] == [
        ("undeploy", 2, None), ("deploy", 1, 2), ("deploy", 2, 1), ("deploy", 1, 2), ("deploy", None, 1),
    ]  # fmt: skip
    page = home.owner.get(f"/flows/{name}/deployments?limit=2")
    rest = home.owner.get(f"/flows/{name}/deployments?limit=5&cursor={page['next']}")
    assert [move["id"] for move in page["items"] + rest["items"]] == [move["id"] for move in moves]


def test_versions_and_what_lies_between_them(home: Home) -> None:
    name = home.save(body("Versions", "1"))
    for number in (1, 2):
        home.owner.do("PUT", f"/flows/{name}", {"flow": body("Versions", str(number + 1)), "base": number})
    versions = home.owner.get(f"/flows/{name}/versions")["items"]
    assert [(version["number"], version["live"]) for version in versions] == [(3, False), (2, False), (1, True)]
    page = home.owner.get(f"/flows/{name}/versions?limit=2")
    assert [version["number"] for version in page["items"]] == [3, 2]
    rest = home.owner.get(f"/flows/{name}/versions?limit=2&cursor={page['next']}")
    assert [version["number"] for version in rest["items"]] == [1]
    assert rest["next"] == ""
    change = home.owner.get(f"/flows/{name}/diff?from=1&to=3")["nodes"]["changed"][0]["changes"][0]
    assert change == {"path": "config.expression", "op": "changed", "old": "1", "new": "3"}
    assert home.owner("GET", f"/flows/{name}/diff?from=1").status_code == 422
    assert home.owner("GET", f"/flows/{name}/diff?from=1&to=9").status_code == 404


def test_a_deleted_flow_leaves_its_runs(home: Home) -> None:
    name = home.save(body("Short life"))
    run = home.run(name)["run"]
    assert home.owner("DELETE", f"/flows/{name}").status_code == 204
    assert home.owner("GET", f"/flows/{name}").status_code == 404
    kept = home.owner.get(f"/runs/{run}")
    assert (kept["flow"], kept["state"], kept["steps"][0]["output"]) == (name, "succeeded", 1)


def test_a_flow_moves_into_a_folder(home: Home) -> None:
    name = home.save(body("Movable"))
    assert home.owner.do("POST", f"/flows/{name}/move", {"folder": "/garden/water/"})["folder"] == "garden/water"


def test_every_change_is_audited_once(home: Home) -> None:
    before = home.owner.get("/audit?limit=1")["items"][0]["seq"]
    name = home.save(body("Audited"))
    home.owner.do("POST", f"/flows/{name}/enable", {"enabled": False})
    home.owner.do("POST", f"/flows/{name}/move", {"folder": "x"})
    home.owner.do("POST", f"/flows/{name}/undeploy")
    home.owner.do("DELETE", f"/flows/{name}")
    entries = [entry for entry in home.owner.get("/audit?limit=50")["items"] if entry["seq"] > before]
    assert [entry["action"] for entry in reversed(entries)] == [
        "flow.save", "flow.deploy", "flow.disable", "flow.move", "flow.undeploy", "flow.delete",
    ]  # fmt: skip
    assert {entry["target"] for entry in entries} == {name}
    assert {entry["actor"] for entry in entries} == {
        home.owner.get("/session")["kind"] + ":" + home.owner.get("/session")["id"]
    }
    assert home.owner.get("/audit/verify")["ok"]
    assert [entry["action"] for entry in home.owner.get("/audit?action=flow&limit=2")["items"]] == [
        "flow.delete", "flow.undeploy",
    ]  # fmt: skip
