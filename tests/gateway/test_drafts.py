"""What an editor asks about a flow that is not saved: how it differs, what a text gives, what a node does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.engine import Home
from tests.support.flows import compute, edges, flow, node


def body(name: str, *nodes: Any, links: Any = (), **more: Any) -> dict[str, Any]:
    return {**flow(*nodes, links=list(links)), "name": name, **more}


def test_a_draft_is_compared_with_a_version(home: Home) -> None:
    name = home.save(body("Compared", compute("a", "1")))
    draft = body("Compared", compute("a", "2"), compute("b", "3"), links=edges("a>b"))
    told = home.owner.do("POST", f"/flows/{name}/compare", {"flow": draft, "version": 1})
    assert [one["id"] for one in told["nodes"]["added"]] == ["b"]
    assert told["nodes"]["changed"][0]["id"] == "a"
    assert told["edges_added"] == [{"from": "a", "to": "b"}]
    from_nothing = home.owner.do("POST", f"/flows/{name}/compare", {"flow": draft})
    assert [one["id"] for one in from_nothing["nodes"]["added"]] == ["a", "b"]
    assert home.owner.get(f"/flows/{name}")["newest"] == 1


def test_validating_tells_ports_and_effects(home: Home) -> None:
    rules = {"rules": [{"port": "hot", "when": "payload.t > 30"}], "otherwise": "fine"}
    inner = {"nodes": [node("in", "log")], "edges": []}
    draft = body(
        "Traits",
        node("s", "switch", rules),
        node("h", "http_request", {"url": "http://127.0.0.1/"}),
        node("l", "for_each", {"items": "payload", "body": inner}),
        node("broken", "switch", {"rules": 7}),
        node("strange", "nothing_such"),
    )
    told = home.owner.do("POST", "/flows/validate", {"flow": draft})["nodes"]
    assert told["s"] == {"ports": ["hot", "fine", "error"], "effect": "pure", "sends_to": []}
    assert told["h"]["effect"] == "idempotent"
    assert told["l/in"]["ports"] == ["out", "error"]
    assert "broken" not in told and "strange" not in told


@pytest.fixture(scope="module")
def told(home: Home) -> tuple[str, str]:
    """A flow and a run of it."""
    home.owner.do("PUT", "/variables/city", {"value": "Graz"})
    home.owner.do("PUT", "/secrets/door", {"value": "open-sesame"})
    nodes = [compute("a", "{'t': payload.t + 1}"), compute("b", "payload.t * 2")]
    name = home.save(body("Evaluated", *nodes, links=edges("a>b")))
    return name, home.run(name, {"t": 20})["run"]


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        ({"source": "payload.t + 1", "expression": True}, 22),
        ({"source": "{{ payload }}"}, {"t": 21}),
        ({"source": "{{ payload.t }} °C in {{ vars.city }}"}, "21 °C in Graz"),
        ({"source": "steps.a.t", "expression": True}, 21),
        ({"source": "payload", "expression": True, "behind": True}, 42),
        ({"source": "event.type", "expression": True}, "manual"),
        ({"source": "{{ secrets.door }}!"}, "•••!"),
        ({"source": "now().year > 2000", "expression": True}, True),
        ({"source": "run.flow", "expression": True}, "evaluated"),
    ],
)
def test_a_text_is_evaluated_on_a_run_s_data(home: Home, told: tuple[str, str], asked: Any, value: Any) -> None:
    given = home.owner.do("POST", f"/runs/{told[1]}/steps/b/evaluate", asked)
    assert given["error"] == ""
    assert given["value"] == value


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("payload.", "line 1"),
        ("payload.nothing.more", "nothing"),
        ("payload.__class__.x", "__class__"),
        ("range(10 ** 9) | list", "range"),
    ],
)
def test_a_text_that_fails_says_why(home: Home, told: tuple[str, str], source: str, complaint: str) -> None:
    asked = {"source": source, "expression": True}
    given = home.owner.do("POST", f"/runs/{told[1]}/steps/b/evaluate", asked)
    assert given["value"] is None
    assert complaint in given["error"]


def test_evaluating_needs_the_right_to_edit(home: Home, told: tuple[str, str]) -> None:
    reader, _ = home.person("reader")
    assert reader("POST", f"/runs/{told[1]}/steps/b/evaluate", {"source": "x"}).status_code == 403
    assert home.owner("POST", f"/runs/{told[1]}/steps/none/evaluate", {"source": "x"}).status_code == 404


def test_a_node_is_tried_and_nothing_of_it_is_kept(home: Home, told: tuple[str, str]) -> None:
    before = len(home.owner.get("/runs?limit=500")["items"])
    asked = {"node": compute("x", "{'sum': payload.a + steps.y.b}"), "payload": {"a": 1}, "steps": {"y": {"b": 2}}}
    tried = home.owner.do("POST", f"/flows/{told[0]}/try", asked)
    assert (tried["outcome"], tried["port"], tried["output"]) == ("done", "out", {"sum": 3})
    assert tried["took"] > 0
    assert len(home.owner.get("/runs?limit=500")["items"]) == before


def test_a_node_that_would_change_state_says_so(home: Home, told: tuple[str, str]) -> None:
    config = {"key": "count", "action": "increment"}
    for _ in range(2):
        tried = home.owner.do("POST", f"/flows/{told[0]}/try", {"node": node("s", "state", config)})
        assert tried["outcome"] == "done", tried
        assert tried["state"] == {"count": 1}


def test_a_node_with_an_effect_is_done_only_if_that_is_said(home: Home, told: tuple[str, str]) -> None:
    write = node("w", "file_write", {"path": "tried.txt", "content": "{{ payload }}"})
    refused = home.owner("POST", f"/flows/{told[0]}/try", {"node": write, "payload": "x"})
    assert refused.status_code == 409
    assert refused.get_json()["type"].endswith("has-effect")
    assert not (home.data / "files" / "tried.txt").exists()
    tried = home.owner.do("POST", f"/flows/{told[0]}/try", {"node": write, "payload": "x", "effects": True})
    assert tried["outcome"] == "done"
    assert (home.data / "files" / "tried.txt").read_text() == "x"


def test_what_goes_wrong_in_a_tried_node_is_an_answer(home: Home, told: tuple[str, str]) -> None:
    path = f"/flows/{told[0]}/try"
    failed = home.owner.do("POST", path, {"node": compute("x", "payload.a.b")})
    assert failed["outcome"] == "failed"
    assert failed["error"]["id"] == "bad-expression"
    missing = home.owner.do("POST", path, {"node": node("r", "file_read", {"path": "none.txt"})})
    assert missing["outcome"] == "failed"
    waits = home.owner.do("POST", path, {"node": node("d", "delay", {"for": "1h"})})
    assert waits["outcome"] == "waits" and waits["until"] > home.gateway.now()
    inner = {"nodes": [node("in", "log")], "edges": []}
    each = home.owner.do(
        "POST", path, {"node": node("f", "for_each", {"items": "payload", "body": inner}), "payload": [1, 2]}
    )
    assert (each["outcome"], each["items"]) == ("starts", 2)
    wrong = home.owner("POST", path, {"node": node("x", "transfrom")})
    assert wrong.status_code == 422


def test_a_tried_node_hides_secrets(home: Home, told: tuple[str, str]) -> None:
    tried = home.owner.do("POST", f"/flows/{told[0]}/try", {"node": compute("x", "secrets.door")})
    assert "open-sesame" not in str(tried)


def test_a_dry_run_goes_through_the_whole_flow_and_has_no_effect(home: Home) -> None:
    draft = body(
        "Dry",
        node("hot", "condition", {"when": "payload.t > 30"}),
        compute("text", "'%d °C' % payload.t"),
        node("send", "http_request", {"url": "http://127.0.0.1:9/{{ payload }}"}),
        compute("after", "payload"),
        node("cold", "log", {"message": "cold"}),
        links=edges("hot>text>true", "hot>cold>false", "text>send", "send>after"),
    )
    before = home.owner.get("/runs?limit=500")
    told = home.owner.do("POST", "/drafts/rehearse", {"flow": draft, "payload": {"t": 31}})
    steps = {step["node"]: step for step in told["steps"]}
    assert list(steps) == ["hot", "text", "send", "after"] and told["complete"]
    assert steps["hot"]["port"] == "true" and steps["text"]["output"] == "31 °C"
    assert steps["send"]["outcome"] == "held" and steps["send"]["config"] == {"url": "http://127.0.0.1:9/31 °C"}
    assert not steps["send"]["guess"] and steps["after"]["guess"]
    assert home.owner.get("/runs?limit=500") == before


def test_a_dry_run_ends_at_a_failure_and_goes_on_at_a_wired_error_port(home: Home) -> None:
    fails = compute("bad", "1 / 0")
    told = home.owner.do(
        "POST", "/drafts/rehearse", {"flow": body("Fails", fails, compute("b", "1"), links=edges("bad>b"))}
    )
    assert [step["outcome"] for step in told["steps"]] == ["failed"]
    caught = body("Caught", fails, compute("b", "payload.message"), links=edges("bad>b>error"))
    told = home.owner.do("POST", "/drafts/rehearse", {"flow": caught})
    assert [step["outcome"] for step in told["steps"]] == ["failed", "done"]
    assert "division" in told["steps"][1]["output"]


def test_a_dry_run_of_a_flow_with_faults_is_refused_with_all_of_them(home: Home) -> None:
    answer = home.owner("POST", "/drafts/rehearse", {"flow": body("Faulty", node("x", "nothing"))})
    assert answer.status_code == 422
