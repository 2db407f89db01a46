"""Whatever is sent, the answer is a problem in one form, the engine stays well, and nothing is lost or shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.gateway.engine import API, Caller, Home
from tests.support.flows import compute, flow

JSON = {"Content-Type": "application/json"}


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    """The problem details of an answer that must have this status."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type == "application/problem+json"
    found: dict[str, Any] = response.get_json()
    assert found["status"] == status
    assert found["title"]
    assert found["type"].startswith("/docs/errors#")
    text = response.get_data(as_text=True)
    assert "Traceback" not in text and "appliance/" not in text and 'File "' not in text
    return found


def send(caller: Caller, data: bytes, path: str = "/flows", **headers: str) -> TestResponse:
    return caller.client.post(API + path, data=data, headers={**caller.headers, **JSON, **headers})


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nonsense", b"{'a': 1}", b'{"flow": NaN}', b'{"a": 1} x', b"\xef\xbb\xbf{}", b'{"a": "\\ud800"}'],
)
def test_malformed_json(home: Home, data: bytes) -> None:
    assert "not JSON" in problem(send(home.owner, data), 400)["detail"]


@pytest.mark.parametrize("data", [b'{"flow": "\xff\xfe"}', b'{"flow": "\xed\xa0\x80"}'])
def test_broken_utf8(home: Home, data: bytes) -> None:
    assert "UTF-8" in problem(send(home.owner, data), 400)["detail"]


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deep_nesting(home: Home, depth: int, pair: str) -> None:
    opening = "[" if pair == "[]" else '{"a":'
    closing = pair[1]
    text = f'{{"input": {opening * depth}1{closing * depth}}}'
    name = home.save({**flow(compute("a", "1")), "name": f"deep {depth} {pair}"})
    assert "nested deeper" in problem(send(home.owner, text.encode(), f"/flows/{name}/runs"), 400)["detail"]


def test_what_is_just_not_too_deep_is_fine(home: Home) -> None:
    name = home.save({**flow(compute("a", "1")), "name": "just deep"})
    text = f'{{"wait": 10, "input": {"[" * 99}{"]" * 99}}}'
    assert send(home.owner, text.encode(), f"/flows/{name}/runs").status_code == 200


def test_many_brackets_that_are_not_deep_are_fine(home: Home) -> None:
    name = home.save({**flow(compute("a", "payload|length")), "name": "wide"})
    assert home.run(name, [[[]]] * 2_000)["output"] == 2_000


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], ""),
        ("text", ""),
        (None, ""),
        ({}, ""),
        ({"flow": 1}, "flow"),
        ({"flow": [1]}, "flow"),
        ({"flow": {}, "message": 7}, "message"),
        ({"flow": {}, "deploy": "yes"}, "deploy"),
        ({"flow": {}, "mesage": ""}, ""),
        ({"flow": {}, "message": "x" * 3_000}, "message"),
    ],
)
def test_wrong_types_are_told_with_their_place(home: Home, body: Any, place: str) -> None:
    found = problem(send(home.owner, json.dumps(body).encode()), 422)
    assert [fault["path"] for fault in found["problems"]] == [place]
    assert found["problems"][0]["message"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "limit=", "limit=1&limit=2", "nothing=1", "cursor=!", "workspace=", "%00=1",
     "search=%00", "recent=perhaps", "limit=1e3000"],
)  # fmt: skip
def test_wrong_queries_are_told_with_their_place(home: Home, query: str) -> None:
    found = problem(home.owner("GET", f"/flows?{query}"), 422)
    assert found["problems"][0]["path"].startswith("?")


def test_a_query_that_is_not_utf8(home: Home) -> None:
    problem(home.owner("GET", "/flows?search=%ff"), 400)


def test_a_cursor_of_another_list(home: Home) -> None:
    problem(home.owner("GET", "/flows?cursor=WzFd"), 422)
    problem(home.owner("GET", "/runs?cursor=abcd"), 422)


def test_nul_characters(home: Home) -> None:
    problem(home.owner("GET", "/flows/a%00b"), 400)
    problem(home.owner("GET", "/variables/a%00b"), 400)
    # In values they are data like any other.
    home.owner.do("PUT", "/variables/nul", {"value": "a\0b"})
    assert home.owner.get("/variables/nul")["value"] == "a\0b"
    name = home.save({**flow(compute("a", "payload")), "name": "nul"})
    assert home.run(name, "x\0y")["output"] == "x\0y"


def test_numbers_that_no_run_can_keep(home: Home) -> None:
    name = home.save({**flow(compute("a", "payload")), "name": "big numbers"})
    found = send(home.owner, b'{"input": 123456789012345678901234567890}', f"/flows/{name}/runs")
    assert "64" in problem(found, 400)["detail"]
    assert problem(send(home.owner, b'{"input": 1e999}', f"/flows/{name}/runs"), 400)


def test_a_body_that_is_too_large(home: Home) -> None:
    bound = home.gateway.settings.max_request_bytes
    found = send(home.owner, b'{"flow": "' + b"x" * 10_000_000 + b'"}')
    assert f"{bound:,}" in problem(found, 413)["detail"]


def test_a_body_that_only_says_it_is_large(home: Home) -> None:
    response = home.owner.client.post(
        f"{API}/flows", headers={**home.owner.headers, **JSON}, environ_overrides={"CONTENT_LENGTH": "999999999999"}
    )
    problem(response, 413)


@pytest.mark.parametrize("length", ["-1", "abc", "1e3"])
def test_a_length_that_is_none(home: Home, length: str) -> None:
    response = home.owner.client.post(
        f"{API}/flows", headers={**home.owner.headers, **JSON}, environ_overrides={"CONTENT_LENGTH": length}
    )
    assert response.status_code == 400


def test_a_body_that_ends_too_soon(home: Home) -> None:
    response = home.owner.client.post(
        f"{API}/flows",
        data=b"{}",
        headers={**home.owner.headers, **JSON},
        environ_overrides={"CONTENT_LENGTH": "100"},
    )
    assert "ends after" in problem(response, 400)["detail"]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_type(home: Home, kind: str) -> None:
    headers = {**home.owner.headers, **({"Content-Type": kind} if kind else {})}
    problem(home.owner.client.post(f"{API}/flows", data=b"{}", headers=headers), 415)


def test_a_body_where_none_is_taken(home: Home) -> None:
    name = home.save({**flow(compute("a", "1")), "name": "no body"})
    problem(home.owner("POST", f"/flows/{name}/undeploy", {"a": 1}), 400)
    assert home.owner("POST", f"/flows/{name}/undeploy", {}).status_code == 200


def test_addresses_and_methods_that_are_not_there(home: Home) -> None:
    assert "openapi" in problem(home.owner("GET", "/nothing"), 404)["detail"]
    response = home.owner("PATCH", "/flows")
    problem(response, 405)
    assert {"GET", "POST"} <= set(response.headers["Allow"].replace(" ", "").split(","))
    problem(home.owner("GET", "/flows/"), 404)
    problem(home.owner.client.open("/api/v1/flows", method="TRACE", headers=home.owner.headers), 405)


@pytest.mark.parametrize(
    "path",
    ["/flows/nothing", "/flows/NoThing", "/runs/0000000000000", "/runs/x", "/runs/ZZZZZZZZZZZZZ",
     "/tokens/0000000000000", "/flows/nothing/versions/1", "/variables/nothing", "/dead-letters/0000000000000"],
)  # fmt: skip
def test_things_that_are_not_there(home: Home, path: str) -> None:
    method = "DELETE" if path.startswith("/tokens") else "GET"
    assert problem(home.owner(method, path), 404)["detail"]


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "99999999999999999999999"])
def test_versions_that_are_none(home: Home, number: str) -> None:
    name = home.save({**flow(compute("a", "1")), "name": "one version"})
    problem(home.owner("GET", f"/flows/{name}/versions/{number}"), 422)
    problem(home.owner("GET", f"/flows/{name}/versions/77"), 404)


@pytest.mark.parametrize(
    "expression",
    ["payload.__class__.__mro__", "''.__class__.__subclasses__()", "().__class__", "cycler.__init__.__globals__",
     "lipsum.__globals__", "range(10**9)|list", "'x' * 10**9", "payload|attr('__class__')"],
)  # fmt: skip
def test_templates_that_reach_out_or_burn(home: Home, expression: str) -> None:
    """Refused on save, or the run fails; never more than that."""
    body = {**flow(compute("a", expression)), "name": "reaching out"}
    response = home.owner("POST", "/flows", {"flow": body})
    if response.status_code == 422:
        problem(response, 422)
        return
    ended = home.run(response.get_json()["id"], {})
    assert ended["state"] == "failed" or ended["output"] in (None, "")
    assert home.anonymous.get("/health")["status"] in {"ok", "warning"}


def test_an_error_of_ours_is_an_incident_and_tells_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the innermost secret")

    monkeypatch.setattr(home.gateway.store.flows, "list", broken)
    found = problem(home.owner("GET", "/flows"), 500)
    assert "innermost" not in json.dumps(found)
    assert found["incident"] in found["detail"]
    assert f"incident {found['incident']}" in caplog.text and "innermost" in caplog.text


def test_an_error_while_errors_are_told_is_still_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.store.errors import StoreFull

    def full() -> None:
        raise StoreFull("no room left for flowork.db: free some space")

    monkeypatch.setattr(home.gateway.store, "changes", full)
    monkeypatch.setattr(home.gateway.changes, "_counters", {})  # a gateway that has just come up
    home.gateway.changes.forget()
    assert "no room" in problem(home.owner("GET", "/flows"), 507)["detail"]
    response = home.client().post("/hooks/whatever")
    assert problem(response, 507)["retry_after"] == 60
    assert response.headers["Retry-After"] == "60"


def test_too_many_requests(make_home: Any) -> None:
    home = make_home(environ={"FLOWORK_RATE_BURST": "5", "FLOWORK_RATE_LIMIT": "0.01"})
    statuses = [home.owner("GET", "/flows").status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    refused = home.owner("GET", "/flows")
    assert problem(refused, 429)["retry_after"] > 0
    assert int(refused.headers["Retry-After"]) >= 1
    # One caller's haste is not another's.
    assert home.caller(["flows:read"]).get("/flows")["items"] == []


def test_guessing_tokens_is_slowed_down(make_home: Any) -> None:
    home = make_home(environ={"FLOWORK_RATE_BURST": "3", "FLOWORK_RATE_LIMIT": "0.01"})
    guess = {"Authorization": "Bearer flw_" + "0" * 13 + "_" + "0" * 52}
    statuses = [home.client().get(f"{API}/flows", headers=guess).status_code for _ in range(5)]
    assert statuses == [401] * 3 + [429] * 2


def test_signing_in_is_slowed_down(make_home: Any) -> None:
    home = make_home(environ={"FLOWORK_SIGN_INS_PER_MINUTE": "2"})
    attempt = {"text": "x", "signature": "0x"}
    statuses = [home.client().post(f"{API}/session", json=attempt).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
