"""Starting, looking at, comparing, cancelling and replaying runs over the API."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.engine import Home, wait_for
from tests.support.flows import compute, edges, flow, node

PARK = node("wait", "wait_event", {"name": "go"})


def named(name: str, *nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**flow(*nodes, **more), "name": name}


def ended(home: Home, run: str) -> dict[str, Any]:
    """A run's head once it has ended."""
    found: dict[str, Any] = wait_for(lambda: (told := home.owner.get(f"/runs/{run}"))["finished"] and told, "its end")
    return found


def waiting(home: Home, run: str) -> dict[str, Any]:
    """A run once it waits."""
    found: dict[str, Any] = wait_for(
        lambda: (told := home.owner.get(f"/runs/{run}"))["state"] == "waiting" and told, "its waiting"
    )
    return found


def test_a_run_is_told_step_by_step(home: Home) -> None:
    name = home.save(
        named(
            "Told",
            compute("a", "{'t': payload.t * 2}"),
            node("b", "condition", {"when": "payload.t > 10"}),
            compute("hot", "vars.greeting ~ payload.t"),
            compute("cold", "'cold'"),
            links=edges("a>b", "b>hot>true", "b>cold>false"),
        )
    )
    home.owner.do("PUT", "/variables/greeting", {"value": "hot: "})
    run = home.run(name, {"t": 21})
    assert run["output"] == "hot: 42"
    told = home.owner.get(f"/runs/{run['run']}")
    assert (told["flow"], told["version"], told["state"], told["output"]) == (name, 1, "succeeded", "hot: 42")
    assert told["payload"] == {"t": 21}
    assert told["event"]["by"].startswith("token:")
    steps = {step["node"]: step for step in told["steps"]}
    assert [step["state"] for step in told["steps"]] == ["done", "done", "done", "skipped"]
    assert (steps["a"]["input"], steps["a"]["output"]) == ({"t": 21}, {"t": 42})
    assert (steps["b"]["input"], steps["b"]["port"]) == ({"t": 42}, "true")
    assert steps["hot"]["saw"] == {"vars.greeting": "hot: "}
    assert "output" not in steps["cold"] and "input" not in steps["cold"]
    assert told["accepted"] <= steps["a"]["started"] <= steps["hot"]["started"] <= told["finished"]
    assert [(record["kind"], record["node"]) for record in told["records"]] == [
        ("done", "a"), ("done", "b"), ("done", "hot"),
    ]  # fmt: skip
    one = home.owner.get(f"/runs/{run['run']}/steps/hot")
    assert one == steps["hot"]
    bare = home.owner.get(f"/runs/{run['run']}?values=none")
    assert all("input" not in step and "output" not in step for step in bare["steps"])
    assert [step["state"] for step in bare["steps"]] == ["done", "done", "done", "skipped"]
    assert "payload" not in bare and "output" not in bare
    assert bare["event"] == told["event"]


def test_attempts_and_errors_are_told(home: Home) -> None:
    failing = node("a", "http_request", {"url": "http://127.0.0.1:9/"}, retry={"attempts": 2, "backoff": 0.01})
    name = home.save(named("Failing", failing, compute("after", "1")))
    run = home.run(name)
    assert run["state"] == "failed"
    told = home.owner.get(f"/runs/{run['run']}")
    first, after = told["steps"]
    assert (first["state"], first["attempts"], after["state"]) == ("failed", 2, "stopped")
    assert len(first["tries"]) == 1
    assert first["tries"][0]["again"] >= first["tries"][0]["at"]
    assert first["error"]["message"] and told["error"]["node"] == "a"
    assert told["letter"] == "open"


def test_manual_inputs_are_checked(home: Home) -> None:
    inputs = [{"name": "room", "type": "choice", "choices": ["hall", "attic"], "required": True}]
    manual = {"id": "m", "type": "manual", "config": {"inputs": inputs}}
    name = home.save(named("Asked", compute("a", "payload.room"), triggers=[manual]))
    assert home.run(name, {"room": "attic"})["output"] == "attic"
    for given in (None, {}, {"room": "cellar"}, {"rom": "hall"}, 7):
        refused = home.owner("POST", f"/flows/{name}/runs", {"input": given})
        assert refused.status_code == 422
        assert refused.get_json()["problems"][0]["path"].startswith("input")


def test_any_version_can_be_run(home: Home) -> None:
    name = home.save(named("Any version", compute("a", "1")), deploy=False)
    assert home.run(name)["output"] == 1
    home.owner.do("PUT", f"/flows/{name}", {"flow": named("Any version", compute("a", "2")), "base": 1})
    assert home.run(name)["output"] == 2
    result = home.owner.do("POST", f"/flows/{name}/runs", {"version": 1, "wait": 10})
    assert result["output"] == 1
    assert home.owner("POST", f"/flows/{name}/runs", {"version": 7}).status_code == 404


def test_a_key_starts_one_run(home: Home) -> None:
    name = home.save(named("Once", compute("a", "payload")))
    key = {"Idempotency-Key": "order-77"}
    first = home.owner.do("POST", f"/flows/{name}/runs", {"input": 1}, headers=key)
    again = home.owner.do("POST", f"/flows/{name}/runs", {"input": 1}, headers=key)
    assert again["run"] == first["run"]
    other = home.owner.do("POST", f"/flows/{name}/runs", {"input": 1}, headers={"Idempotency-Key": "order-78"})
    assert other["run"] != first["run"]
    assert len(home.owner.get(f"/runs?flow={name}")["items"]) == 2
    assert home.owner("POST", f"/flows/{name}/runs", {}, headers={"Idempotency-Key": "k" * 201}).status_code == 400


def test_waiting_ends_before_the_run(home: Home) -> None:
    name = home.save(named("Slow", PARK))
    result = home.owner("POST", f"/flows/{name}/runs", {"wait": 0.05})
    assert result.status_code == 202
    assert (result.get_json()["timeout"], result.get_json()["state"]) == (True, "running")
    home.owner.do("POST", "/events", {"name": "go", "flow": name})


def test_runs_are_found_by_what_is_known_of_them(home: Home) -> None:
    good = home.save(named("Findable", compute("a", "payload.who")), workspace="find")
    bad = home.save(named("Unfindable", compute("a", "1 / 0")), workspace="find")
    runs = [home.run(good, {"who": who})["run"] for who in ("ada", "grace", "edsger")]
    failed = home.run(bad)["run"]

    def found(query: str) -> list[str]:
        return [run["id"] for run in home.owner.get(f"/runs?workspace=find&{query}")["items"]]

    assert found("") == [failed, *reversed(runs)]
    assert found(f"flow={bad}") == [failed]
    assert found(f"flow={bad}&flow={good}&limit=2") == [failed, runs[2]]
    assert found("flow=nothing") == []
    assert found("state=failed&state=dead") == [failed]
    assert found("state=succeeded") == list(reversed(runs))
    assert found("text=grace") == [runs[1]]
    assert found("letter=open") == [failed]
    assert found("trigger=manual&limit=1") == [failed]
    moment = home.owner.get(f"/runs/{runs[1]}")["accepted"]
    assert set(found(f"until={moment - 0.0005}")) <= {runs[0]}
    assert runs[0] not in found(f"since={moment + 0.5}")
    assert home.owner("GET", "/runs?state=broken").status_code == 422


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_pages_of_runs_miss_nothing_and_repeat_nothing(home: Home, limit: int) -> None:
    ours = home.save(named(f"Pages {limit}", compute("a", "1")), workspace=f"runs{limit}")
    theirs = home.save(named(f"Pages of others {limit}", compute("a", "1")), workspace="others")
    runs = []
    for index in range(7):
        home.run(theirs)
        if index % 2:
            runs.append(home.run(ours)["run"])
    home.run(theirs)
    seen: list[str] = []
    cursor = ""
    for _ in range(20):
        page = home.owner.get(f"/runs?workspace=runs{limit}&limit={limit}&cursor={cursor}")
        assert len(page["items"]) <= limit
        seen += [run["id"] for run in page["items"]]
        if not (cursor := page["next"]):
            break
    assert seen == list(reversed(runs))


def test_children_are_listed_under_their_parent(home: Home) -> None:
    body = {"nodes": [compute("x", "payload * 10")], "edges": []}
    name = home.save(named("Each", node("loop", "for_each", {"items": "payload", "body": body})))
    run = home.run(name, [1, 2, 3])
    assert run["state"] == "succeeded"
    children = home.owner.get(f"/runs/{run['run']}/children")["items"]
    assert len(children) == 3
    assert {child["parent"] for child in children} == {run["run"]}
    assert {child["place"] for child in children} == {"loop"}
    assert [(child["node"], child["index"], child["attempt"]) for child in children] == [
        ("loop", 2, 1), ("loop", 1, 1), ("loop", 0, 1),
    ]  # fmt: skip
    assert home.owner.get(f"/runs/{run['run']}/children?state=failed")["items"] == []
    assert len(home.owner.get(f"/runs/{run['run']}/children?state=succeeded&limit=2")["items"]) == 2
    child = home.owner.get(f"/runs/{children[0]['id']}")
    assert [step["node"] for step in child["steps"]] == ["x"]
    assert [item["id"] for item in home.owner.get(f"/runs?flow={name}")["items"]] == [run["run"]]
    assert len(home.owner.get(f"/runs?flow={name}&children=true")["items"]) == 4
    assert home.owner.get(f"/runs/{run['run']}/steps/loop")["state"] == "done"


def test_the_flow_that_a_run_went_through_is_its_own_version(home: Home) -> None:
    inner = {"nodes": [node("sort", "switch", {"rules": [{"when": "payload > 1", "port": "many"}]})], "edges": []}
    loop = node("loop", "for_each", {"items": "payload", "body": inner})
    name = home.save(named("Kept shape", loop, compute("a", "1"), links=edges("loop>a")))
    run = home.run(name, [1])["run"]
    home.owner.do("PUT", f"/flows/{name}", {"flow": named("Kept shape", compute("z", "2")), "base": 1, "deploy": True})
    kept = home.owner.get(f"/runs/{run}/flow")
    assert [entry["id"] for entry in kept["flow"]["nodes"]] == ["loop", "a"]
    assert (kept["path"], kept["ports"]) == ([], {"loop": ["out", "error"], "a": ["out", "error"]})
    child = home.owner.get(f"/runs/{run}/children")["items"][0]["id"]
    within = home.owner.get(f"/runs/{child}/flow")
    assert (within["path"], within["ports"]) == (["loop"], {"sort": ["many", "otherwise", "error"]})
    home.owner.do("DELETE", f"/flows/{name}")
    assert home.owner.get(f"/runs/{run}/flow")["flow"] == kept["flow"]


def test_the_edges_that_fired_are_told(home: Home) -> None:
    name = home.save(
        named(
            "Forked",
            node("b", "condition", {"when": "payload > 10"}),
            compute("hot", "1"),
            compute("cold", "2"),
            links=[
                *edges("b>hot>true", "b>cold>false"),
                {"from": "b", "to": "cold", "port": "true", "condition": "payload > 90"},
            ],
        )
    )
    told = home.owner.get(f"/runs/{home.run(name, 50)['run']}")
    assert [(step["node"], step["fired"]) for step in told["steps"]] == [("b", [0]), ("hot", []), ("cold", [])]
    told = home.owner.get(f"/runs/{home.run(name, 99)['run']}")
    assert told["steps"][0]["fired"] == [0, 2]


def test_a_run_under_way_is_told_and_cancelled(home: Home) -> None:
    name = home.save(named("Parked", compute("a", "payload"), PARK, compute("b", "1")))
    run = home.owner.do("POST", f"/flows/{name}/runs", {"input": 5})["run"]
    told = waiting(home, run)
    assert [step["state"] for step in told["steps"]] == ["done", "waiting", "pending"]
    assert told["steps"][1]["signals"] == ["event:go"]
    assert told["steps"][1]["input"] == 5
    assert home.owner("POST", f"/runs/{run}/cancel").status_code == 204
    told = ended(home, run)
    assert told["state"] == "cancelled"
    assert "token:" in told["error"]["message"]
    assert [step["state"] for step in told["steps"]] == ["done", "stopped", "stopped"]
    again = home.owner("POST", f"/runs/{run}/cancel")
    assert again.status_code == 409


def test_replaying_from_a_step_with_another_payload(home: Home) -> None:
    name = home.save(named("Replayed", compute("a", "payload + 1"), compute("b", "payload * 10")))
    run = home.run(name, 1)["run"]
    new = home.owner("POST", f"/runs/{run}/replay", {"from": "b", "payload": 7})
    assert new.status_code == 202
    told = ended(home, new.get_json()["run"])
    assert (told["output"], told["origin"]) == (70, run)
    assert [step["state"] for step in told["steps"]] == ["kept", "done"]
    assert [step["input"] for step in told["steps"]] == [1, 7]
    same = ended(home, home.owner.do("POST", f"/runs/{run}/replay", {})["run"])
    assert same["output"] == 20
    home.owner.do("PUT", f"/flows/{name}", {"flow": named("Replayed", compute("a", "0")), "base": 1, "deploy": True})
    live = ended(home, home.owner.do("POST", f"/runs/{run}/replay", {"version": "live"})["run"])
    assert live["output"] == 0
    assert home.owner("POST", f"/runs/{run}/replay", {"from": "nothing"}).status_code == 404


def test_an_idempotency_key_replays_once(home: Home) -> None:
    name = home.save(named("Replay once", compute("a", "1")))
    run = home.run(name)["run"]
    key = {"Idempotency-Key": "replay-1"}
    first = home.owner.do("POST", f"/runs/{run}/replay", {}, headers=key)
    assert home.owner.do("POST", f"/runs/{run}/replay", {}, headers=key) == first
    reused = home.owner("POST", f"/runs/{run}/replay", {"payload": 2}, headers=key)
    assert reused.status_code == 422
    assert reused.get_json()["type"].endswith("#key-reused")


def test_two_runs_step_by_step(home: Home) -> None:
    name = home.save(named("Compared", compute("a", "payload.t > 5"), compute("b", "'same'")))
    one, two = (home.run(name, {"t": t})["run"] for t in (1, 9))
    found = home.owner.get(f"/runs/{one}/compare/{two}")
    assert found["event"] == [{"path": "payload.t", "op": "changed", "old": 1, "new": 9}]
    first, second = found["steps"]
    assert {change["path"] for change in first["changes"]} == {"input.t", "output"}
    assert not first["same"]
    assert {change["path"] for change in second["changes"]} == {"input"}
    assert all(step["same"] for step in home.owner.get(f"/runs/{one}/compare/{one}")["steps"])
    assert home.owner("GET", f"/runs/{one}/compare/0000000000000").status_code == 404


def test_many_runs_at_once(home: Home) -> None:
    name = home.save(named("Bulk", PARK))
    runs = [home.owner.do("POST", f"/flows/{name}/runs", {})["run"] for _ in range(3)]
    done = home.run(home.save(named("Bulk done", compute("a", "1"))))["run"]
    for run in runs:
        waiting(home, run)
    asked = {"action": "cancel", "runs": [*runs, runs[0], done, "0000000000000"]}
    result = home.owner.do("POST", "/runs/bulk", asked)
    assert result["done"] == runs
    assert [(fault["run"], fault["id"]) for fault in result["failed"]] == [
        (done, "conflict"), ("0000000000000", "not-found"),
    ]  # fmt: skip
    again = home.owner.do("POST", "/runs/bulk", {"action": "replay", "runs": [done]})
    assert ended(home, again["made"][0])["origin"] == done


def test_large_values_are_put_aside_and_to_be_had(home: Home, make_home: Callable[..., Home]) -> None:
    home = make_home(environ={"FLOWORK_MAX_SNAPSHOT_BYTES": "2000"})
    home.store.settings.set({"max_snapshot_bytes": 2000})
    home.start_kernel()
    name = home.save(named("Large", compute("a", "payload"), compute("b", "payload|length")))
    text = "x" * 3_000
    run = home.run(name, [text])["run"]
    told = home.owner.get(f"/runs/{run}")
    assert told["steps"][0]["output"] == [text]
    huge = "y" * 1_500_000
    run = home.run(name, [huge])["run"]
    reference = home.owner.get(f"/runs/{run}")["payload"]
    assert reference["type"] == "application/x-flowork-value" and reference["size"] > 1_500_000
    path = f"/runs/{run}/blobs/{reference['$blob']}"
    response = home.owner("GET", path)
    assert response.get_json() == [huge]
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert home.owner("GET", f"/runs/{run}/blobs/{'0' * 64}").status_code == 404
    reader, _ = home.person("reader", "elsewhere")
    assert reader("GET", path).status_code == 404


def test_bytes_are_told_as_base64(home: Home) -> None:
    from appliance.gateway.answers import plain

    data = bytes(range(256))
    assert plain({"a": [data, 1, None]}) == {"a": [{"$base64": base64.b64encode(data).decode()}, 1, None]}
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    assert "nested too deeply" in str(plain(deep))


def test_a_run_of_a_node_kind_that_is_gone_can_still_be_looked_at(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    name = home.save(named("Old kinds", compute("a", "1"), node("b", "log")))
    run = home.run(name)["run"]
    kinds = {key: kind for key, kind in home.gateway.registry.nodes.items() if key != "log"}
    monkeypatch.setattr(home.gateway.registry, "_nodes", kinds)
    assert [step["type"] for step in home.owner.get(f"/runs/{run}")["steps"]] == ["transform", "log"]


def test_named_events_wake_who_waits(home: Home) -> None:
    one = home.save(named("Waits one", PARK), workspace="ears")
    two = home.save(named("Waits two", PARK), workspace="ears")
    runs = [home.owner.do("POST", f"/flows/{name}/runs", {})["run"] for name in (one, two)]
    for run in runs:
        waiting(home, run)
    sent = home.owner.do("POST", "/events?workspace=ears", {"name": "go", "payload": 5, "flow": one})
    assert sent == {"woken": 1}
    assert ended(home, runs[0])["output"] == 5
    assert home.owner.do("POST", "/events?workspace=elsewhere", {"name": "go"}) == {"woken": 0}
    assert home.owner.do("POST", "/events?workspace=ears", {"name": "go"}) == {"woken": 1}
    assert home.owner("POST", "/events?workspace=elsewhere", {"name": "go", "flow": one}).status_code == 404
    assert home.owner("POST", "/events", {"name": ""}).status_code == 422


def test_a_trigger_is_tested_as_if_it_had_fired(home: Home) -> None:
    triggers = [{"id": "m", "type": "mqtt", "config": {"topic": "a/b", "broker": "mqtt://127.0.0.1:9"}}]
    name = home.save(named("Tested", compute("a", "event.topic ~ ' ' ~ payload.t"), triggers=triggers), deploy=False)
    asked = {"payload": {"t": 3}, "meta": {"topic": "a/b"}}
    run = home.owner.do("POST", f"/flows/{name}/triggers/m/test", asked)["run"]
    told = ended(home, run)
    assert (told["output"], told["trigger"], told["event"]["type"]) == ("a/b 3", "m", "mqtt")
    assert told["event"]["test"] is True
    assert home.owner("POST", f"/flows/{name}/triggers/x/test", {}).status_code == 404
