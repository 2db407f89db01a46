"""A tunnel from the internet, played by a reverse proxy of its own: what a stranger gets there, and who is let in."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from simple_websocket import Client

from appliance.gateway.identity import TUNNEL
from appliance.security.wallet import address_of, sign_message
from tests.gateway.engine import API, PATIENCE, Home, wait_for
from tests.gateway.served import Served
from tests.gateway.test_hooks import hooked
from tests.support.broker import free_port

PROXY = Path(__file__).with_name("proxy.py")
PUBLIC = "box.example.org"


class Outside:
    """A caller on the internet, at the public end of a tunnel."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = None if body is None else json.dumps(body).encode()
        sent = {"Host": PUBLIC, "Connection": "close", "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@contextmanager
def tunnel(port: int, behind: str = "203.0.113.7") -> Iterator[Outside]:
    """A tunnel that says that all come from ``behind``."""
    with subprocess.Popen(
        [sys.executable, str(PROXY), str(port), behind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Outside(int(process.stdout.readline()))
        process.communicate()


@pytest.fixture(scope="module")
def port(home: Home) -> int:
    found = free_port()
    home.gateway.store.settings.set({"tunnel_port": found, "allowed_origins": [f"https://{PUBLIC}"]})
    return found


@pytest.fixture(scope="module")
def served(home: Home, port: int) -> Iterator[Served]:
    made = Served(home.data)
    wait_for(lambda: made.get(f"{API}/health")[0] == 200, "the gateway")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def outside(served: Served, port: int) -> Iterator[Outside]:
    with tunnel(port) as made:
        yield made


def test_a_stranger_gets_nothing_of_the_engine(home: Home, served: Served, outside: Outside) -> None:
    for path in (f"{API}/health", f"{API}/flows", f"{API}/https", "/v1/models", f"{API}/live", f"{API}/restore"):
        assert outside("GET", path)[0] == 401, path
    assert outside("GET", "/certificate")[0] == 404
    assert served.get(f"{API}/health")[0] == 200, "what is public at home stays so at home"
    # What one signs in with is all.
    assert json.loads(outside("GET", f"{API}/session")[2])["signed_in"] is False


#: What anybody may have there: the panel's own files, what one signs in with. (The certificate's page is not given.)
OPEN = ("/", "/docs/errors", "/<path:path>", "/certificate", "/certificate/flowork.crt", "/certificate/flowork.pem")


def test_every_other_address_wants_an_identity_there(home: Home) -> None:
    found = []
    for rule in home.app.url_map.iter_rules():
        if rule.rule in OPEN or rule.rule.startswith(f"{API}/session"):
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            address = re.sub(r"<[^>]+>", "1", rule.rule)
            there = {"SERVER_NAME": TUNNEL}
            with home.client().open(address, method=method, environ_overrides=there) as response:
                found += [] if response.status_code == 401 else [(method, address, response.status_code)]
    assert found == []


def test_one_signs_in_through_it_and_the_session_knows_https(home: Home, outside: Outside) -> None:
    _, key = home.person("admin")
    _, _, data = outside("GET", f"{API}/session/challenge?address={address_of(key)}")
    challenge = json.loads(data)["text"]
    assert f"URI: https://{PUBLIC}/" in challenge
    signed = {"text": challenge, "signature": sign_message(key, challenge)}
    status, headers, _ = outside("POST", f"{API}/session", signed, {"Origin": f"https://{PUBLIC}"})
    assert status == 200
    assert headers["set-cookie"].startswith("__Host-")
    cookie = {"Cookie": headers["set-cookie"].partition(";")[0]}
    assert outside("GET", f"{API}/flows", None, cookie)[0] == 200
    entries = home.owner.get("/audit?action=session.start")["items"]
    assert entries[0]["detail"]["from"] == "203.0.113.7"


def test_a_name_that_nobody_has_allowed_is_refused(outside: Outside) -> None:
    path = f"{API}/session/challenge?address=0x{'0' * 40}"
    assert outside("GET", path, None, {"Host": "evil.example.net"})[0] == 403


@pytest.mark.parametrize("behind", ["", "127.0.0.1", "::1"])
def test_whatever_the_tunnel_says_nobody_behind_it_is_this_machine(
    home: Home, served: Served, port: int, behind: str
) -> None:
    home.gateway.store.settings.set({"https": "only"})
    try:
        with tunnel(port, behind) as outside:
            assert outside("GET", f"{API}/flows")[0] == 401
            token = {"Authorization": home.owner.headers["Authorization"]}
            assert outside("GET", f"{API}/flows", None, token)[0] == 200, "it came by https"
            assert outside("GET", "/certificate/flowork.crt")[0] == 404
    finally:
        home.gateway.store.settings.set({"https": "off"})


def test_webhooks_need_a_token_unless_the_setting_says_otherwise(home: Home, outside: Outside) -> None:
    settings = home.gateway.store.settings
    hooked(home, "From outside", "from-outside-1", "payload.n + 1", reply="result")
    call = ("POST", "/hooks/from-outside-1", {"n": 1})
    status, headers, data = outside(*call)
    assert (status, headers["content-type"]) == (401, "application/problem+json")
    assert "token" in json.loads(data)["detail"]
    assert outside("POST", "/hooks/not-there-at-all", {})[0] == 401, "it does not tell which addresses there are"
    allowed = {"Authorization": home.caller(["events:write"]).headers["Authorization"]}
    assert outside(*call, allowed)[2] == b"2"
    other = {"Authorization": home.caller(["flows:read"]).headers["Authorization"]}
    assert outside(*call, other)[0] == 403
    try:
        settings.set({"tunnel_hooks": "open"})
        wait_for(lambda: outside(*call)[0] == 200, "the setting to be read")
        settings.set({"tunnel_hooks": "off"})
        wait_for(lambda: outside(*call)[0] == 404, "the setting to be read")
        assert outside(*call, allowed)[0] == 404
    finally:
        settings.set({"tunnel_hooks": "token"})


def test_live_events_come_through(home: Home, outside: Outside, served: Served) -> None:
    flow = hooked(home, "Live outside", "live-outside-1", "payload.n + 1")
    client = Client(
        f"ws://127.0.0.1:{outside.port}{API}/live?flow={flow}",
        headers={"Authorization": home.owner.headers["Authorization"]},
    )
    served.raw(b"POST /hooks/live-outside-1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    message = client.receive(timeout=PATIENCE)
    assert message
    client.close()
    client.thread.join(PATIENCE)


def test_a_port_that_is_taken_is_told_and_the_rest_goes_on(home: Home, served: Served, port: int) -> None:
    second = Served(home.data)
    try:
        wait_for(lambda: second.get(f"{API}/health")[0] == 200, "the gateway")
        status, data = second.get(f"{API}/health", {"Authorization": home.owner.headers["Authorization"]})
        found = [finding for finding in json.loads(data)["findings"] if finding["id"] == "tunnel"]
        assert status == 200
        assert f"port {port} is in use" in found[0]["text"]
    finally:
        second.stop()
