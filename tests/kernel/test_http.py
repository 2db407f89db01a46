"""The engine's HTTP client against a real server: limits, redirects, time, cancelling, what it shows."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, HttpReply, NodeError
from appliance.kernel.http import MAX_REDIRECTS, HttpClient
from tests.support.web import PATIENCE, WebServer, cut_off, never_answer, pour, self_signed, web_server


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with web_server() as server:
        yield server


def with_client(work: Callable[[HttpClient], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        client = HttpClient()
        try:
            async with asyncio.timeout(PATIENCE):
                return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(go())


def request(method: str, url: str, **options: Any) -> HttpReply:
    reply = with_client(lambda client: client.request(method, url, **options))
    assert isinstance(reply, HttpReply)
    return reply


def refused(method: str, url: str, **options: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        request(method, url, **options)
    return caught.value


def test_a_request_carries_what_was_asked_and_brings_the_answer_back(web: WebServer) -> None:
    url = web.answer("/x", 201, {"X-Answer": "yes"}, b"done")
    reply = request("POST", url + "?a=1", headers={"X-Ask": "ü"}, params={"b": "2 3"}, body=b"payload")
    assert (reply.status, reply.body, reply.headers["x-answer"]) == (201, b"done", "yes")
    assert reply.url == url + "?a=1&b=2+3"
    seen = web.requests[0]
    assert (seen.method, seen.target, seen.body) == ("POST", "/x?a=1&b=2+3", b"payload")
    assert seen.headers["x-ask"].encode("latin-1").decode() == "ü"
    assert seen.headers["user-agent"] == "Flowork"


def test_an_error_status_is_an_answer_too(web: WebServer) -> None:
    assert request("GET", web.url("/missing")).status == 404


def test_redirects_are_followed_unless_told_not_to(web: WebServer) -> None:
    start = web.answer("/start", 302, {"Location": "/end"})
    web.answer("/end", body=b"here")
    assert request("GET", start).body == b"here"
    assert request("GET", start).url == web.url("/end")
    assert request("GET", start, follow_redirects=False).status == 302


def test_an_endless_redirect_is_given_up(web: WebServer) -> None:
    error = refused("GET", web.answer("/loop", 302, {"Location": "/loop"}))
    assert not error.retryable
    assert str(MAX_REDIRECTS) in error.message
    assert len(web.requests) == MAX_REDIRECTS + 1


def test_a_redirect_to_a_file_is_not_followed(web: WebServer) -> None:
    error = refused("GET", web.answer("/evil", 302, {"Location": "file:///etc/passwd"}))
    assert not error.retryable


def test_an_announced_length_above_the_limit_is_refused_unread(web: WebServer) -> None:
    error = refused("GET", web.answer("/big", body=b"x" * 2000), limit=1999)
    assert "1999 bytes" in error.message
    assert not error.retryable
    assert len(request("GET", web.url("/big"), limit=2000).body) == 2000
    assert request("HEAD", web.url("/big"), limit=10).body == b""


def test_an_endless_body_is_cut_at_the_limit(web: WebServer) -> None:
    error = refused("GET", web.answer("/pour", on=pour), limit=1_000_000)
    assert "larger than 1000000 bytes" in error.message
    assert web.hung_up.wait(PATIENCE)


def test_a_packed_answer_is_unpacked_and_described_as_such(web: WebServer) -> None:
    packed = gzip.compress(b"a" * 3000) + gzip.compress(b"b")
    url = web.answer("/packed", headers={"Content-Encoding": "gzip"}, body=packed)
    reply = request("GET", url)
    assert reply.body == b"a" * 3000 + b"b"
    assert not {"content-encoding", "content-length"} & reply.headers.keys()


def test_a_gzip_bomb_stops_at_the_limit(web: WebServer) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    url = web.answer("/bomb", headers={"Content-Encoding": "gzip"}, body=bomb)
    assert "larger than 100000 bytes" in refused("GET", url, limit=100_000).message


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"whole", mtime=0)[:-3]])
def test_a_damaged_packed_body_is_an_error(web: WebServer, body: bytes) -> None:
    error = refused("GET", web.answer("/bad", headers={"Content-Encoding": "gzip"}, body=body))
    assert error.retryable
    assert "damaged" in error.message


def test_an_answer_that_is_cut_off_may_be_retried(web: WebServer) -> None:
    error = refused("GET", web.answer("/cut", on=cut_off))
    assert error.retryable
    assert error.detail == {"sent": True}


def test_a_silent_server_runs_into_the_timeout_and_is_hung_up_on(web: WebServer) -> None:
    error = refused("GET", web.answer("/slow", on=never_answer), timeout=0.05)
    assert "within 0.05 seconds" in error.message
    assert error.retryable
    assert web.hung_up.wait(PATIENCE)


def test_cancelling_aborts_the_request(web: WebServer) -> None:
    url = web.answer("/slow", on=never_answer)

    async def work(client: HttpClient) -> None:
        task = asyncio.create_task(client.request("GET", url))
        await asyncio.to_thread(web.arrived.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(web.hung_up.wait, PATIENCE)
        web.answer("/next", body=b"still works")
        assert (await client.request("GET", web.url("/next"))).body == b"still works"

    with_client(work)


def test_a_name_that_nobody_knows_is_said_without_the_systems_number() -> None:
    message = refused("GET", "http://no-such-host.invalid/").message
    assert "cannot be reached: " in message
    assert "Errno" not in message


def test_a_closed_port_is_known_not_to_have_seen_the_request() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        error = refused("GET", f"http://127.0.0.1:{port}/secret-path?token=hush")
    assert error.retryable
    assert error.detail == {"sent": False}
    assert f"http://127.0.0.1:{port}" in error.message
    assert "secret" not in error.message
    assert "hush" not in error.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "http://",
        "http://u:hush/x@host/",
        "http://a b/",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_is_none_is_a_config_error_without_its_text(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        request("GET", url)
    assert "hush" not in caught.value.message


@pytest.mark.parametrize("headers", [{"Authorization": "hush\r\nX: y"}, {"bad name": "hush"}, {"X": "\ud800hush"}])
def test_a_header_that_would_split_the_request_is_refused(web: WebServer, headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        request("GET", web.url("/"), headers=headers)
    assert "hush" not in caught.value.message
    assert web.requests == []


def test_a_method_that_is_none_is_a_config_error(web: WebServer) -> None:
    with pytest.raises(ConfigError):
        request("GET /x", web.url("/"))


def test_cookies_do_not_pass_from_one_flow_to_another(web: WebServer) -> None:
    url = web.answer("/login", headers={"Set-Cookie": "session=1; Path=/"})

    async def work(client: HttpClient) -> None:
        for _ in range(2):
            await client.request("GET", url)

    with_client(work)
    assert "cookie" not in web.requests[1].headers


def test_the_password_in_a_url_is_used_and_not_given_back(web: WebServer) -> None:
    url = web.answer("/private").replace("http://", "http://me:hush@")
    assert "hush" not in request("GET", url).url
    assert web.requests[0].headers["authorization"].startswith("Basic ")


def test_urls_are_not_logged(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        request("GET", web.url("/?token=hush"))
    assert "hush" not in caplog.text


def test_an_unknown_certificate_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    with web_server(self_signed(tmp_path)) as web:
        url = web.answer("/", body=b"in private")
        error = refused("GET", url)
        assert not error.retryable
        assert "not trusted" in error.message
        assert request("GET", url, verify=False).body == b"in private"


def test_a_certificate_the_machine_trusts_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with web_server(pem) as web:
        assert request("GET", web.answer("/", body=b"home lab")).body == b"home lab"


def test_after_closing_nothing_is_sent_any_more(web: WebServer) -> None:
    async def work(client: HttpClient) -> None:
        await client.request("GET", web.url("/"))
        await client.aclose()
        await client.aclose()
        with pytest.raises(NodeError, match="stopping"):
            await client.request("GET", web.url("/"))

    with_client(work)
    assert len(web.requests) == 1


def test_httpx_is_not_loaded_before_it_is_used() -> None:
    code = "import sys, appliance.kernel.http as h; h.HttpClient(); sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
