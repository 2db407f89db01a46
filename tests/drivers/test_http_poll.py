"""The http_poll driver with a real web server on the loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from drivers.base import DriverError
from drivers.http_poll import HttpPoll, HttpPollConfig
from drivers.support import jsonpath
from tests.drivers.contract import Contract, observed
from tests.drivers.host import PATIENCE, FakeHost, Heard


class Server:
    """A device with one page."""

    def __init__(self) -> None:
        self.body = b'{"main": {"temp": 21.5}}'
        self.type = "application/json"
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, str]] = []
        self.hang = threading.Event()
        self.hanging = threading.Event()
        self.hang.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append({"path": self.path, **{name.lower(): text for name, text in self.headers.items()}})
                if self.path == "/elsewhere":
                    self.send_response(302)
                    self.send_header("Location", "/")
                    self.end_headers()
                    return
                if not outer.hang.is_set():
                    outer.hanging.set()
                    outer.hang.wait(PATIENCE)
                tag = outer.headers.get("ETag")
                status = 304 if tag and self.headers.get("If-None-Match") == tag else outer.status
                self.send_response(status)
                self.send_header("Content-Type", outer.type)
                for name, text in outer.headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(0 if status == 304 else len(outer.body)))
                self.end_headers()
                if status != 304:
                    self.wfile.write(outer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def driver(server: Server, host: FakeHost) -> HttpPoll:
    return HttpPoll(HttpPollConfig(url=server.url, interval=0.1), host)


class TestContract(Contract):
    @pytest.fixture
    def driver(self, host: FakeHost) -> HttpPoll:
        """Nobody listens there."""
        return HttpPoll(HttpPollConfig(url="http://127.0.0.1:9/", interval=0.1), host)


class Polling:
    def __init__(self, server: Server, host: FakeHost, path: str = "", **config: Any) -> None:
        self.driver = HttpPoll(HttpPollConfig(url=server.url + path, **({"interval": 0.1} | config)), host)
        self.heard = Heard()

    def __enter__(self) -> Heard:
        self.driver.open()
        self._stop = self.driver.events(self.heard)
        return self.heard

    def __exit__(self, *_: object) -> None:
        self._stop()
        self.driver.close()


def test_a_value_is_told_when_it_changes(server: Server, host: FakeHost) -> None:
    with Polling(server, host, "status?token=abc", select="main.temp", headers={"X-Key": "k"}) as heard:
        assert heard.one("initial").value == 21.5
        server.body = b'{"main": {"temp": 22}}'
        assert heard.one("changed").value == 22
        observed(heard, host)
    assert server.asked[0]["path"] == "/status?token=abc"
    assert server.asked[0]["x-key"] == "k"
    assert all("abc" not in each.source for each in heard.all)
    assert [each.kind for each in heard.all] == ["initial", "changed"]


def test_each_fetch_is_told_if_that_is_wanted(server: Server, host: FakeHost) -> None:
    with Polling(server, host, every=True) as heard:
        heard.kind("reading", 2)


def test_small_changes_are_overlooked(server: Server, host: FakeHost) -> None:
    with Polling(server, host, select="main.temp", change=1.0) as heard:
        heard.one("initial")
        for temp in (21.9, 22.4, 22.6):
            server.body = f'{{"main": {{"temp": {temp}}}}}'.encode()
            before = len(server.asked)
            while len(server.asked) < before + 2:
                heard.until(lambda _: True)
        assert heard.one("changed").value == 22.6


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("application/json", b"[1]", [1]),
        ("text/html; charset=utf-8", "grün".encode(), "grün"),
        ("image/png", b"\x89PNG", {"sha256": hashlib.sha256(b"\x89PNG").hexdigest(), "size": 4, "type": "image/png"}),
    ],
)
def test_pages_of_all_kinds(kind: str, body: bytes, value: Any, server: Server, host: FakeHost) -> None:
    server.type, server.body = kind, body
    with Polling(server, host) as heard:
        assert heard.one("initial").value == value


def test_a_page_that_the_server_knows_unchanged_is_not_sent_again(server: Server, host: FakeHost) -> None:
    server.headers["ETag"] = '"one"'
    with Polling(server, host, every=True) as heard:
        assert heard.kind("reading", 2)[1].value == {"main": {"temp": 21.5}}
    assert [each.get("if-none-match") for each in server.asked[:2]] == [None, '"one"']


def test_redirects_are_followed(server: Server, host: FakeHost) -> None:
    with Polling(server, host, "elsewhere") as heard:
        heard.one("initial")
    assert [each["path"] for each in server.asked[:2]] == ["/elsewhere", "/"]


@pytest.mark.parametrize(
    ("status", "body", "config", "says"),
    [
        (503, b"", {}, "status 503"),
        (200, b"oops", {"select": "a"}, "not JSON"),
        (200, b'{"b": 1}', {"select": "a.b"}, "no 'a' in the page"),
        (200, b"x" * 2000, {"longest": 1000}, "longer than 1000 bytes"),
    ],
)
def test_a_page_that_is_no_use_is_lost_and_comes_back(
    status: int, body: bytes, config: dict[str, Any], says: str, server: Server, host: FakeHost
) -> None:
    server.status, server.body = status, body
    with Polling(server, host, patience=2, **config) as heard:
        assert says in heard.one("lost").value
        server.status, server.body = 200, b'{"a": {"b": 5}}'
        heard.one("gap")
        heard.one("initial")


def test_a_command_fetches_at_once(driver: HttpPoll) -> None:
    driver.open()
    assert driver.write({"fetch": True}) == {"value": {"main": {"temp": 21.5}}}
    driver.close()


def test_closing_ends_a_request_that_hangs(server: Server, host: FakeHost) -> None:
    server.hang.clear()
    driver = HttpPoll(HttpPollConfig(url=server.url, timeout=60), host)
    driver.open()
    driver.events(Heard())
    assert server.hanging.wait(PATIENCE)
    closer = threading.Thread(target=driver.close)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()


@pytest.mark.parametrize("url", ["ftp://x/yyyy", "http:///path", "http://a b/", "http://x:99999/"])
def test_what_is_no_url_is_refused(url: str, host: FakeHost) -> None:
    with pytest.raises(DriverError, match="url:"):
        HttpPoll(HttpPollConfig(url=url), host).open()


def test_paths_into_json() -> None:
    value = {"a": [{"b c": 1}, {"d": 2}], "x.y": 3}
    for path, found in {"a[0]['b c']": None, 'a[0]["b c"]': 1, "$.a[-1].d": 2, '["x.y"]': 3, "": value}.items():
        if found is None:
            with pytest.raises(DriverError, match="is no path"):
                jsonpath.steps(path)
        else:
            assert jsonpath.pick(value, jsonpath.steps(path)) == found
