"""The HTTP request node through the engine's real client, against a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError
from appliance.kernel.http import HttpClient
from appliance.nodes.http_request import HttpRequest
from tests.support.context import NOON, FakeContext, FakeWorld, arun_node
from tests.support.web import PATIENCE, WebServer, cut_off, never_answer, web_server


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with web_server() as server:
        yield server


def send(url: str, ctx: FakeContext | None = None, **config: Any) -> Any:
    ctx = ctx or FakeContext()

    async def go() -> Any:
        client = HttpClient()
        ctx.http = client
        try:
            async with asyncio.timeout(PATIENCE):
                return await arun_node(HttpRequest(), {"url": url, **config}, None, ctx)
        finally:
            await client.aclose()

    return asyncio.run(go())


def refused(url: str, **config: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        send(url, **config)
    return caught.value


def test_a_get_sends_query_and_headers_and_gives_the_whole_answer(web: WebServer) -> None:
    url = web.answer("/x", 200, {"Content-Type": "application/json", "X-Answer": "1"}, b'{"t": 5}')
    result = send(url + "?a=1#part", query={"b": [2, "ü"], "c": True, "d": None}, headers={"X-N": 7, "X-Y": None})
    assert result["status"] == 200
    assert result["body"] == {"t": 5}
    assert result["headers"]["x-answer"] == "1"
    assert result["url"].startswith(url)
    seen = web.requests[0]
    assert (seen.method, seen.target) == ("GET", "/x?a=1&b=2&b=%C3%BC&c=true")
    assert seen.headers["x-n"] == "7"
    assert not {"x-y", "idempotency-key", "authorization"} & seen.headers.keys()


@pytest.mark.parametrize(
    ("config", "body", "content_type"),
    [
        ({"json": {"a": [1, None, "ü"]}}, '{"a":[1,null,"ü"]}'.encode(), "application/json"),
        ({"json": None}, b"null", "application/json"),
        ({"form": {"a": "x y", "b": [1, 2], "c": None}}, b"a=x+y&b=1&b=2", "application/x-www-form-urlencoded"),
        ({"text": "grün"}, "grün".encode(), "text/plain; charset=utf-8"),
        ({"text": "<a/>", "headers": {"content-type": "text/xml"}}, b"<a/>", "text/xml"),
        ({}, b"", None),
    ],
)
def test_bodies(web: WebServer, config: dict[str, Any], body: bytes, content_type: str | None) -> None:
    send(web.answer("/x"), method="POST", **config)
    seen = web.requests[0]
    assert seen.body == body
    assert seen.headers.get("content-type") == content_type


def test_a_blob_is_sent_with_its_own_type(web: WebServer) -> None:
    ctx = FakeContext()
    send(web.answer("/x"), ctx, method="PUT", blob=ctx.blobs.put(b"\x89PNG", "image/png"))
    assert web.requests[0].body == b"\x89PNG"
    assert web.requests[0].headers["content-type"] == "image/png"


def test_signing_in(web: WebServer) -> None:
    url = web.answer("/x")
    send(url, auth="basic", username="me", password="pä:ss")
    send(url, auth="bearer", token="t0k")
    basic, bearer = (seen.headers["authorization"] for seen in web.requests)
    assert base64.b64decode(basic.removeprefix("Basic ")).decode() == "me:pä:ss"
    assert bearer == "Bearer t0k"


def test_unsafe_methods_carry_the_key_of_the_step(web: WebServer) -> None:
    url = web.answer("/x")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        send(url, FakeContext(idempotency_key="run7/pay"), method=method)
    send(url, method="POST", headers={"idempotency-key": "mine"})
    assert [seen.headers["idempotency-key"] for seen in web.requests] == ["run7/pay"] * 4 + ["mine"]


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json; charset=utf-8", b'{"a": 1}', {"a": 1}),
        ("application/problem+json", b"[1]", [1]),
        ("application/json; charset=utf-16", "[1]".encode("utf-16"), [1]),
        ("application/json", b"", None),
        ("text/plain; charset=latin-1", b"gr\xfcn", "grün"),
        ("text/html; charset=klingon", "grün".encode(), "grün"),
        ("application/atom+xml", b"<a/>", "<a/>"),
        (None, b"plain", "plain"),
    ],
)
def test_the_answer_is_read_by_its_type(web: WebServer, content_type: str | None, body: bytes, value: Any) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert send(web.answer("/x", 200, headers, body))["body"] == value


@pytest.mark.parametrize("headers", [{"Content-Type": "image/png"}, {}])
def test_anything_else_becomes_a_blob(web: WebServer, headers: dict[str, str]) -> None:
    ctx = FakeContext()
    result = send(web.answer("/x", 200, headers, b"\x89PNG\xff"), ctx)
    assert ctx.blobs.get(result["body"]) == b"\x89PNG\xff"
    assert result["body"]["type"] == headers.get("Content-Type", "application/octet-stream")


def test_the_config_may_say_how_to_read_the_answer(web: WebServer) -> None:
    url, ctx = web.answer("/x", 200, {"Content-Type": "text/plain"}, b'{"a":1}'), FakeContext()
    assert send(url, response="json")["body"] == {"a": 1}
    assert send(url, response="text")["body"] == '{"a":1}'
    assert send(url, response="none")["body"] is None
    assert ctx.blobs.get(send(url, ctx, response="bytes")["body"]) == b'{"a":1}'


@pytest.mark.parametrize("body", [b"<html>", b"{", b"[" * 100_000])
def test_json_that_is_none_is_said(web: WebServer, body: bytes) -> None:
    error = refused(web.answer("/x", 200, {"Content-Type": "application/json"}, body))
    assert "not JSON" in error.message
    assert not error.retryable
    assert error.detail["body"].startswith(body[:5].decode())


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (404, False), (408, True), (429, True), (500, True), (503, True), (304, False)],
)
def test_a_bad_status_fails_and_says_whether_to_retry(web: WebServer, status: int, retryable: bool) -> None:
    error = refused(web.answer("/secret-path", status, {}, b"" if status == 304 else b"why"))
    assert error.retryable is retryable
    assert error.detail == {"status": status, "body": "" if status == 304 else "why"}
    assert error.message == f"127.0.0.1 answered GET with status {status}"


def test_a_long_error_page_is_cut(web: WebServer) -> None:
    assert len(refused(web.answer("/x", 500, {}, b"x" * 100_000)).detail["body"]) == 500


def test_good_statuses_can_be_chosen(web: WebServer) -> None:
    url = web.answer("/x", 404)
    assert send(url, ok_status=[200, "400 - 499"])["status"] == 404
    assert send(url, ok_status=["404"])["status"] == 404
    assert refused(web.answer("/y", 200), ok_status=[201]).detail["status"] == 200


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", 120.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("9" * 400, 999_999_999.0),
        ("Sat, 99 Nov 2026", None),
    ],
)
def test_retry_after_reaches_the_engine_as_seconds(web: WebServer, value: str, wait: float | None) -> None:
    url = web.answer("/x", 503, {"Retry-After": value})
    with pytest.raises(NodeError) as caught:
        send(url, FakeContext(clock=NOON))
    assert caught.value.detail.get("retry_after") == wait


def test_redirects_and_sizes_are_bounded_by_the_config(web: WebServer) -> None:
    start = web.answer("/start", 302, {"Location": "/end"})
    web.answer("/end", body=b"x" * 100)
    assert send(start)["url"] == web.url("/end")
    assert send(start, follow_redirects=False, ok_status=[302])["status"] == 302
    assert "larger than 99 bytes" in refused(start, max_size=99).message


def test_a_server_that_is_away_may_be_retried_by_any_method() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert refused(url, method="GET").retryable
        assert refused(url, method="POST").retryable


def test_what_may_have_been_done_once_is_not_sent_again(web: WebServer) -> None:
    cut = web.answer("/cut", on=cut_off)
    assert refused(cut, method="GET").retryable
    assert refused(cut, method="POST", idempotent=True).retryable
    error = refused(cut, method="POST")
    assert not error.retryable
    assert "unknown" in error.message
    slow = web.answer("/slow", on=never_answer)
    assert not refused(slow, method="PATCH", timeout="50ms").retryable


def test_cancelling_hangs_up(web: WebServer) -> None:
    url = web.answer("/slow", on=never_answer)

    async def go() -> None:
        client = HttpClient()
        task = asyncio.create_task(arun_node(HttpRequest(), {"url": url}, None, FakeContext(http=client)))
        await asyncio.to_thread(web.arrived.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.aclose()

    asyncio.run(go())
    assert web.hung_up.wait(PATIENCE)


@pytest.mark.parametrize(
    "config",
    [
        {"url": ""},
        {"url": "example.com"},
        {"url": "ftp://example.com/"},
        {"url": "http://[::1/"},
        {"method": "FETCH"},
        {"json": 1, "text": "x"},
        {"form": {}, "text": "x"},
        {"ok_status": ["fine"]},
        {"ok_status": [999]},
        {"timeout": "soon"},
        {"headers": {"X": "a\r\nEvil: b"}},
        {"headers": {"X": ["a"]}},
        {"max_size": 0},
        {"unknown": 1},
    ],
)
def test_a_bad_config_is_refused_before_anything_is_sent(web: WebServer, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        send(**{"url": web.url("/x"), **config})
    assert web.requests == []


def test_secrets_do_not_show_in_errors(web: WebServer) -> None:
    url = web.answer("/hush1", 403).replace("http://", "http://me:hush2@") + "?key=hush3"
    error = refused(url, auth="bearer", token="hush4", method="POST")
    assert "hush" not in error.message + json.dumps(error.detail)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"url": "example.com/x"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://h/", "json": None, "text": "x"}, "text"),
        ({"url": "http://h/", "ok_status": [200, "2xx"]}, "ok_status[1]"),
        ({"url": "http://h/", "auth": "basic"}, "username"),
        ({"url": "http://h/", "auth": "bearer"}, "token"),
    ],
)
def test_faults_are_found_on_save(config: dict[str, Any], path: str) -> None:
    assert [fault.path for fault in HttpRequest().check(config, FakeWorld())] == [path]


@pytest.mark.parametrize(
    "config",
    [
        {"url": "{{ payload.url }}", "ok_status": "{{ payload.good }}"},
        {"url": "https://h/{{ payload.x }}", "json": None},
        {"url": "http://h/", "auth": "bearer", "token": "{{ secrets.t }}", "ok_status": [200, "{{ payload.s }}"]},
    ],
)
def test_what_only_the_run_can_tell_is_no_fault_on_save(config: dict[str, Any]) -> None:
    assert list(HttpRequest().check(config, FakeWorld())) == []


def test_effects() -> None:
    effect = HttpRequest().effect_of
    assert {effect({"method": method}) for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")} == {Effect.IDEMPOTENT}
    assert effect({}) is Effect.IDEMPOTENT
    assert {effect({"method": method}) for method in ("POST", "PATCH", "{{ payload.m }}")} == {Effect.ONCE}
    assert effect({"method": "POST", "idempotent": True}) is Effect.IDEMPOTENT
    assert effect({"method": "POST", "idempotent": "{{ payload.x }}"}) is Effect.ONCE
