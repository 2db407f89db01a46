"""Webhooks: who is let in, what becomes of a request, and what happens without a kernel."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.engine import Home, wait_for
from tests.gateway.test_runs import ended, named
from tests.support.flows import compute, node


def hook(path: str, **config: Any) -> dict[str, Any]:
    return {"id": "w", "type": "webhook", "config": {"path": path, **config}}


def hooked(home: Home, name: str, path: str, expression: str = "payload", **config: Any) -> str:
    return home.save(named(name, compute("a", expression), triggers=[hook(path, **config)]))


def test_a_request_becomes_a_run(home: Home) -> None:
    name = hooked(home, "Hooked", "hook-one")
    response = home.anonymous("POST", "/hooks/hook-one?from=door", {"t": 5})
    assert response.status_code == 202
    assert response.headers["Cache-Control"] == "no-store"
    told = ended(home, response.get_json()["run"])
    assert (told["flow"], told["output"], told["trigger"]) == (name, {"t": 5}, "w")
    event = told["event"]
    assert (event["type"], event["method"], event["query"]) == ("webhook", "POST", {"from": "door"})
    assert event["remote"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("data", "kind", "payload"),
    [
        (b'{"a": [1]}', "application/json", {"a": [1]}),
        (b'"text"', "application/vnd.x+json", "text"),
        (b"a=1&b=x+y", "application/x-www-form-urlencoded", {"a": "1", "b": "x y"}),
        ("grün".encode(), "text/plain", "grün"),
        (b"", "", {"q": "1"}),
    ],
)
def test_bodies_of_all_kinds(home: Home, data: bytes, kind: str, payload: Any) -> None:
    path = f"kinds-{hashlib.sha256(data).hexdigest()[:12]}"
    hooked(home, f"Kinds {path}", path, reply="result")
    headers = {"Content-Type": kind} if kind else {}
    response = home.client().post(f"/hooks/{path}?q=1", data=data, headers=headers)
    assert (response.status_code, response.get_json()) == (200, payload)


def test_the_caller_waits_for_the_result(home: Home) -> None:
    hooked(home, "Answers", "answers-1", "{'sum': payload.a + payload.b}", reply="result")
    response = home.anonymous("POST", "/hooks/answers-1", {"a": 1, "b": 2})
    assert (response.status_code, response.get_json()) == (200, {"sum": 3})
    assert home.owner.get(f"/runs/{response.headers['X-Flowork-Run']}")["state"] == "succeeded"
    # Why it failed is for those who may read runs.
    response = home.anonymous("POST", "/hooks/answers-1", {"a": "secret detail", "b": 2})
    assert response.status_code == 502
    assert response.content_type == "application/problem+json"
    assert "secret detail" not in response.get_data(as_text=True)
    assert home.owner.get(f"/runs/{response.headers['X-Flowork-Run']}")["error"]


def test_the_caller_waits_no_longer_than_the_limit(home: Home) -> None:
    home.save(
        named(
            "Slow answer",
            node("a", "wait_event", {"name": "x"}),
            triggers=[hook("slow-one", reply="result", limit=0.05)],
        )
    )
    response = home.anonymous("POST", "/hooks/slow-one", {})
    assert response.status_code == 202
    assert response.get_json()["state"] == "running"
    home.owner.do("POST", "/events", {"name": "x"})


def test_a_key_starts_one_run(home: Home) -> None:
    name = hooked(home, "Once a key", "once-a-key")
    key = {"Idempotency-Key": "k1"}
    first = home.anonymous("POST", "/hooks/once-a-key", {"n": 1}, headers=key).get_json()["run"]
    assert home.anonymous("POST", "/hooks/once-a-key", {"n": 1}, headers=key).get_json()["run"] == first
    assert len(home.owner.get(f"/runs?flow={name}")["items"]) == 1


def test_refusals(home: Home) -> None:
    hooked(home, "Strict", "strict-one", methods=["PUT"], max_bytes=50)
    put = {"method": "PUT", "headers": {"Content-Type": "application/json"}}
    cases = [
        ({"method": "POST"}, 405),
        ({**put, "data": b"{"}, 400),
        ({**put, "data": b'"\xff"'}, 400),
        ({**put, "data": b"[" * 20 + b"]" * 20}, 202),
        ({**put, "data": b'"' + b"x" * 50 + b'"'}, 413),
    ]
    for request, status in cases:
        response = home.client().open("/hooks/strict-one", **request)
        assert response.status_code == status, (request, response.data)
        if status >= 400:
            assert response.content_type == "application/problem+json"
            assert response.get_json()["status"] == status
    assert home.client().post("/hooks/nothing-here").status_code == 404
    assert home.client().post("/hooks/").status_code == 404
    assert home.client().post("/hooks/strict-one/more").status_code == 404


def test_what_no_run_can_hold(home: Home) -> None:
    hooked(home, "Any json", "any-json-1", max_bytes=100_000_000)
    headers = {"Content-Type": "application/json"}
    for data, status in [
        (b"[" * 101 + b"]" * 101, 400),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b"123456789012345678901234567890", 400),
        (b'"' + b"x" * 10_000_000 + b'"', 413),
        (b'{"a": "\\u0000"}', 202),
    ]:
        assert home.client().post("/hooks/any-json-1", data=data, headers=headers).status_code == status
    assert home.client().post("/hooks/any-json-1?" + "&".join(f"a{n}=1" for n in range(300))).status_code == 400


def test_deploying_switching_and_undeploying_open_and_close(home: Home) -> None:
    name = hooked(home, "Door", "door-of-it")
    assert home.anonymous("POST", "/hooks/door-of-it", 1).status_code == 202
    home.owner.do("POST", f"/flows/{name}/enable", {"enabled": False})
    assert home.anonymous("POST", "/hooks/door-of-it", 1).status_code == 404
    home.owner.do("POST", f"/flows/{name}/enable", {"enabled": True})
    assert home.anonymous("POST", "/hooks/door-of-it", 1).status_code == 202
    home.owner.do("POST", f"/flows/{name}/undeploy")
    assert home.anonymous("POST", "/hooks/door-of-it", 1).status_code == 404


def test_another_process_s_deploy_is_noticed(make_home: Callable[..., Home]) -> None:
    home = make_home()
    name = hooked(home, "Elsewhere", "elsewhere-1")
    assert home.anonymous("POST", "/hooks/elsewhere-1", 1).status_code == 202
    home.store.flows.undeploy(name, "another process")
    wait_for(lambda: home.anonymous("POST", "/hooks/elsewhere-1", 1).status_code == 404, "the door to shut")


def test_a_path_that_is_taken_is_refused_by_name(home: Home) -> None:
    hooked(home, "First come", "taken-path-1")
    refused = home.owner(
        "POST", "/flows", {"flow": named("Second", compute("a", "1"), triggers=[hook("taken-path-1")])}
    )
    assert refused.status_code == 422
    assert "first-come" in refused.get_json()["problems"][0]["message"]


def test_a_signature_made_with_a_secret(home: Home) -> None:
    home.owner.do("PUT", "/secrets/hub", {"value": "s3cret-of-the-hub"})
    name = hooked(home, "Signed", "signed-one", hmac={"secret": "{{ secrets.hub }}"})
    data = b'{"ref": "main"}'
    signature = hmac.new(b"s3cret-of-the-hub", data, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
    assert home.client().post("/hooks/signed-one", data=data, headers=headers).status_code == 202
    refused = home.client().post("/hooks/signed-one", data=data + b" ", headers=headers)
    assert refused.status_code == 401
    assert "s3cret" not in refused.get_data(as_text=True)
    assert len(home.owner.get(f"/runs?flow={name}")["items"]) == 1
    # A changed secret counts at once.
    home.owner.do("PUT", "/secrets/hub", {"value": "another-secret"})
    assert home.client().post("/hooks/signed-one", data=data, headers=headers).status_code == 401


def test_readers_do_not_see_the_secret_path(home: Home) -> None:
    name = hooked(home, "Secret path", "a-secret-path-1")
    reader, _ = home.person("reader")
    runner, _ = home.person("runner")
    for path in (f"/flows/{name}", f"/flows/{name}/versions/1", "/triggers", f"/triggers?flow={name}", "/health"):
        assert "a-secret-path-1" not in json.dumps(reader.get(path)), path
    assert runner.get(f"/flows/{name}")["flow"]["triggers"][0]["config"]["path"] == "a-secret-path-1"
    (trigger,) = runner.get(f"/triggers?flow={name}")["items"]
    assert (trigger["path"], trigger["ok"], trigger["status"]) == ("/hooks/a-secret-path-1", True, "listening")


def test_without_a_kernel_requests_are_kept_and_run_later(make_home: Callable[..., Home]) -> None:
    home = make_home()
    name = hooked(home, "Kept", "kept-for-it", "payload.n * 2", reply="result")
    key = {"Idempotency-Key": "k"}
    runs = [home.anonymous("POST", "/hooks/kept-for-it", {"n": n}) for n in range(3)]
    assert {response.status_code for response in runs} == {202}
    repeated = [home.anonymous("POST", "/hooks/kept-for-it", {"n": 9}, headers=key).get_json()["run"] for _ in range(2)]
    assert repeated[0] == repeated[1]
    by_hand = home.owner.do("POST", f"/flows/{name}/runs", {"input": {"n": 20}})
    assert by_hand["kernel"] is False
    assert home.owner.get("/runs")["items"][0]["state"] == "queued"
    assert [finding["id"] for finding in home.owner.get("/health")["findings"]] == ["kernel-away"]
    assert home.anonymous.get("/health") == {"status": "critical"}
    assert home.owner("GET", "/approvals").status_code == 503
    home.start_kernel()
    assert [ended(home, response.get_json()["run"])["output"] for response in runs] == [0, 2, 4]
    assert ended(home, repeated[0])["output"] == 18
    assert ended(home, by_hand["run"])["output"] == 40
    assert home.anonymous("POST", "/hooks/kept-for-it", {"n": 5}).get_json() == 10
    # And the kernel may go and come again.
    home.stop_kernel()
    late = home.anonymous("POST", "/hooks/kept-for-it", {"n": 6}).get_json()["run"]
    home.start_kernel()
    assert ended(home, late)["output"] == 12


def test_past_the_queue_s_bound_senders_are_told_when_to_come_back(make_home: Callable[..., Home]) -> None:
    home = make_home()
    home.store.settings.set({"queue_bound": 1})
    home.start_kernel()
    home.save(named("Full", node("a", "command", {"args": ["sleep", "30"]}), triggers=[hook("full-hook-1")]))
    answers = [home.anonymous("POST", "/hooks/full-hook-1", {}) for _ in range(4)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert refused[0].get_json()["type"].endswith("#busy")
    for run in home.owner.get("/runs?state=running&state=queued")["items"]:
        home.owner("POST", f"/runs/{run['id']}/cancel")


def test_strangers_on_the_network_are_held_to_a_rate(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.contracts import Busy

    def refuse(remote: str) -> None:
        if remote == "203.0.113.9":
            raise Busy("too many requests: wait a moment", retry_after=3.2)

    hooked(home, "Limited", "limited-one")
    monkeypatch.setattr(home.gateway.callers, "take_hook", refuse)
    far = home.client().post("/hooks/limited-one", environ_base={"REMOTE_ADDR": "203.0.113.9"})
    assert (far.status_code, far.headers["Retry-After"]) == (429, "4")
    proxied = home.client().post("/hooks/limited-one", headers={"X-Forwarded-For": "192.0.2.1, 203.0.113.9"})
    assert proxied.status_code == 429
    assert home.client().post("/hooks/limited-one").status_code == 202
