"""Which requests our own page can have sent, and which names are ours."""

from __future__ import annotations

import pytest

from appliance.security.origins import HEADER, host_allowed, origin_allowed

HOST = {"host": "flowork.local:5000"}
OURS = {**HOST, "origin": "http://flowork.local:5000"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "get"])
def test_safe_methods_may_always(method: str) -> None:
    assert origin_allowed(method, {**HOST, "origin": "https://evil.example", "sec-fetch-site": "cross-site"})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
class TestUnsafe:
    @pytest.mark.parametrize(
        "headers",
        [
            OURS,
            {**OURS, "sec-fetch-site": "same-origin"},
            {"host": "box", "origin": "http://box"},
            {"host": "box", "origin": "https://box"},
            {"host": "box:443", "origin": "https://box"},
            {"host": "BOX", "origin": "http://box:80"},
            {"host": "[fd00::1]:5000", "origin": "http://[fd00::1]:5000"},
            {"host": "inner:8000", "origin": "https://box.example", "sec-fetch-site": "same-origin"},
            {**HOST, HEADER: "1"},
        ],
    )
    def test_our_own_page(self, method: str, headers: dict[str, str]) -> None:
        assert origin_allowed(method, headers)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            HOST,
            {**HOST, "origin": ""},
            {**HOST, "origin": "null"},
            {**HOST, "origin": "null", HEADER: "1"},
            {**HOST, "origin": "https://evil.example"},
            {**HOST, "origin": "https://evil.example", HEADER: "1"},
            {**HOST, "origin": "http://flowork.local:5001"},
            {**HOST, "origin": "http://flowork.local"},
            {**HOST, "origin": "http://flowork.local:5000.evil.example"},
            {**HOST, "origin": "http://evil.example@flowork.local:5000"},
            {**HOST, "origin": "file://flowork.local:5000"},
            {**HOST, "origin": "flowork.local:5000"},
            {**OURS, "sec-fetch-site": "cross-site"},
            {**OURS, "sec-fetch-site": "same-site"},
            {**OURS, "sec-fetch-site": "cross-site", HEADER: "1"},
            {"origin": "http://flowork.local:5000"},
        ],
    )
    def test_anybody_elses(self, method: str, headers: dict[str, str]) -> None:
        assert not origin_allowed(method, headers)


def test_a_websocket_is_no_safe_get() -> None:
    assert origin_allowed("GET", OURS, websocket=True)
    assert not origin_allowed("GET", {**HOST, "origin": "https://evil.example"}, websocket=True)
    assert not origin_allowed("GET", HOST, websocket=True)
    assert not origin_allowed("GET", {**HOST, HEADER: "1"}, websocket=True)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "127.0.0.1:5000",
        "192.168.1.20",
        "[::1]:5000",
        "[fd00::12]",
        "flowork.local",
        "FLOWORK.local:5000",
        "flowork.local.",
        "garden.localhost",
        "pi",
        "box.example.org:443",
        "a.home.example.org",
    ],
)
def test_our_names(host: str) -> None:
    assert host_allowed(host, ["pi", "Box.example.org", "*.home.example.org"])


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":5000",
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "flowork.local.evil.example",
        "evillocal",
        "home.example.org",
        "evilhome.example.org",
        "pi.evil.example",
        "[evil]",
    ],
)
def test_foreign_names(host: str) -> None:
    assert not host_allowed(host, ["pi", "box.example.org", "*.home.example.org", ""])
