"""The feed node: real feeds from a real server, each entry once, and documents that mean harm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError
from appliance.nodes import feed
from appliance.nodes.feed import Feed
from tests.support.calls import Run, real_services
from tests.support.context import NOON, FakeContext, FakeWorld, MemoryState
from tests.support.web import WebServer, web_server

Read = Callable[..., Any]

ATOM = b"""<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom"><title>r/selfhosted</title><id>/r/selfhosted/new/.rss</id>
<entry><author><name>/u/someone</name></author><id>t3_abc</id><title>Gr\xc3\xbcn &amp; gut</title>
<link href="/r/selfhosted/comments/abc/"/><updated>2026-11-20T10:00:00+01:00</updated>
<content type="html">&lt;p&gt;Hi&lt;script&gt;alert(1)&lt;/script&gt;&lt;/p&gt;</content></entry></feed>"""


def rss(*ids: int) -> bytes:
    items = "".join(
        f"<item><guid isPermaLink='false'>{number}</guid><title>Item {number}</title></item>" for number in ids
    )
    return f'<?xml version="1.0"?><rss version="2.0"><channel><title>x</title>{items}</channel></rss>'.encode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with real_services(tmp_path_factory.mktemp("data")) as run:
        yield run


@pytest.fixture
def read(run: Run) -> Read:
    return lambda url, ctx=None, **config: run(Feed(), {"url": url, **config}, ctx or FakeContext())


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with web_server() as server:
        yield server


def numbers(entries: list[dict[str, Any]]) -> list[int]:
    return [int(entry["id"]) for entry in entries]


def test_an_atom_entry_with_all_its_parts(read: Read, web: WebServer) -> None:
    (entry,) = read(web.answer("/new/.rss", 200, {"Content-Type": "application/atom+xml"}, ATOM))
    assert entry == {
        "id": web.url("/new/t3_abc"),
        "title": "Grün & gut",
        "link": web.url("/r/selfhosted/comments/abc/"),
        "published": "2026-11-20T09:00:00+00:00",
        "summary": "<p>Hi</p>",
        "author": "/u/someone",
    }


def test_an_entry_with_nothing_but_a_title(read: Read, web: WebServer) -> None:
    document = b"<rss version='2.0'><channel><item><title>only</title></item></channel></rss>"
    (entry,) = read(web.answer("/x", body=document))
    assert entry["id"]
    assert entry | {"id": ""} == {
        "id": "", "title": "only", "link": "", "published": None, "summary": "", "author": ""
    }  # fmt: skip


def test_each_entry_comes_once(read: Read, web: WebServer) -> None:
    ctx = FakeContext()
    url = web.answer("/x", body=rss(2, 1))
    assert numbers(read(url, ctx)) == [2, 1]
    assert read(url, ctx) == []
    web.answer("/x", body=rss(4, 3, 2))
    assert numbers(read(url, ctx)) == [4, 3]


def test_the_memory_is_durable_and_survives_as_json(read: Read, web: WebServer) -> None:
    state = MemoryState()
    url = web.answer("/x?token=hush", body=rss(1))
    web.answer("/x", body=rss(1))
    assert numbers(read(url, FakeContext(state=state))) == [1]
    assert read(url, FakeContext(state=MemoryState(state.values))) == []
    assert "hush" not in str(state.values)


def test_nodes_and_urls_have_memories_of_their_own(read: Read, web: WebServer) -> None:
    state = MemoryState()
    one, two = web.answer("/one", body=rss(1)), web.answer("/two", body=rss(1))
    for url, node in ((one, "a"), (two, "a"), (one, "b")):
        assert numbers(read(url, FakeContext(state=state, node=node))) == [1]


def test_the_whole_feed_on_request(read: Read, web: WebServer) -> None:
    ctx = FakeContext()
    url = web.answer("/x", headers={"ETag": '"v1"'}, body=rss(2, 1))
    for _ in range(2):
        assert numbers(read(url, ctx, only_new=False)) == [2, 1]
    assert ctx.state.keys() == []
    assert "if-none-match" not in web.requests[1].headers


def test_an_unchanged_feed_is_not_sent_again(read: Read, web: WebServer) -> None:
    ctx = FakeContext()
    modified = "Sat, 21 Nov 2026 10:00:00 GMT"
    url = web.answer("/x", headers={"ETag": '"v1"', "Last-Modified": modified}, body=rss(1))
    assert numbers(read(url, ctx)) == [1]
    web.answer("/x", 304)
    assert read(url, ctx) == []
    asked = web.requests[1].headers
    assert (asked["if-none-match"], asked["if-modified-since"]) == ('"v1"', modified)
    web.answer("/x", body=rss(2, 1))
    assert numbers(read(url, ctx)) == [2]


def test_more_than_the_limit_is_skipped_and_said(read: Read, web: WebServer) -> None:
    ctx = FakeContext()
    url = web.answer("/x", body=rss(5, 4, 3, 2, 1))
    assert numbers(read(url, ctx, limit=2)) == [5, 4]
    assert "3 older entries were skipped" in ctx.messages("warning")[0]
    assert read(url, ctx, limit=2) == []


def test_memory_is_bounded_but_never_forgets_what_the_feed_still_shows(
    read: Read, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_REMEMBERED", 3)
    ctx = FakeContext()
    url = web.answer("/x", body=rss(*range(10, 0, -1)))
    read(url, ctx)
    assert read(url, ctx) == []
    web.answer("/x", body=rss(12, 11))
    assert numbers(read(url, ctx)) == [12, 11]
    (key,) = ctx.state.keys()
    assert len(ctx.state.get(key)["seen"]) == 5
    web.answer("/x", body=rss(10, 9, 8, 7))
    assert numbers(read(url, ctx)) == [7]


def test_a_redirect_and_a_login_do_not_change_the_ids(read: Read, web: WebServer) -> None:
    ctx = FakeContext()
    url = web.answer("/new/.rss", body=ATOM).replace("http://", "http://me:hush@")
    (entry,) = read(url, ctx)
    assert entry["id"] == web.url("/new/t3_abc")
    web.answer("/new/.rss", 302, {"Location": "/moved/.rss"})
    web.answer("/moved/.rss", body=ATOM)
    assert read(url, ctx) == []


def test_headers_go_with_the_request(read: Read, web: WebServer) -> None:
    read(web.answer("/x", body=rss()), headers={"Authorization": "Bearer t"})
    assert web.requests[0].headers["authorization"] == "Bearer t"
    assert "application/rss+xml" in web.requests[0].headers["accept"]


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (429, True), (503, True)])
def test_a_bad_status_fails_and_says_whether_to_retry(read: Read, web: WebServer, status: int, retryable: bool) -> None:
    ctx = FakeContext(clock=NOON)
    with pytest.raises(NodeError, match=f"127.0.0.1 answered with status {status}") as caught:
        read(web.answer("/hush", status, {"Retry-After": "Sat, 21 Nov 2026 12:01:00 GMT"}), ctx)
    assert caught.value.retryable is retryable
    assert caught.value.detail == {"status": status, "retry_after": 60.0}
    assert ctx.state.keys() == []


@pytest.mark.parametrize("body", [b"", b"<html><body>hello</body></html>", b'{"items": []}', b"\xff\x00\xfe"])
def test_what_is_no_feed_is_said(read: Read, web: WebServer, body: bytes) -> None:
    ctx = FakeContext()
    with pytest.raises(NodeError, match="neither RSS nor Atom") as caught:
        read(web.answer("/x", body=body), ctx)
    assert not caught.value.retryable
    assert ctx.state.keys() == []


def test_a_document_that_is_the_name_of_a_file_does_not_open_it(read: Read, web: WebServer, tmp_path: Any) -> None:
    (tmp_path / "feed.xml").write_bytes(rss(1))
    with pytest.raises(NodeError, match="neither RSS nor Atom"):
        read(web.answer("/x", body=str(tmp_path / "feed.xml").encode()))


def test_an_entity_bomb_is_harmless(read: Read, web: WebServer) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">{entities}]>'.encode()
    body = bomb + rss(1).partition(b"?>")[2].replace(b"Item 1", b"&e9;")
    (entry,) = read(web.answer("/x", body=body))
    assert len(entry["title"]) < 1000


def test_files_of_this_machine_stay_out(read: Read, web: WebServer, tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("hush")
    document = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]>'.encode()
    body = document + rss(1).partition(b"?>")[2].replace(b"Item 1", b"&e;")
    (entry,) = read(web.answer("/x", body=body))
    assert "hush" not in str(entry)


def test_texts_are_bounded_and_valid_unicode(read: Read, web: WebServer) -> None:
    body = rss(1).replace(b"Item 1", b"&#xD800;&#55555;&#x110000;" + b"x" * 100_000)
    (entry,) = read(web.answer("/x", body=body))
    assert len(entry["title"]) <= 20_000
    entry["title"].encode()


@pytest.mark.parametrize(
    "config",
    [
        {"url": ""},
        {"url": "reddit.com/r/x/.rss"},
        {"url": "file:///etc/passwd"},
        {"limit": 0},
        {"timeout": "soon"},
        {"headers": {"X": "a\r\nb: c"}},
    ],
)
def test_a_bad_config_is_refused(read: Read, web: WebServer, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read(**{"url": web.url("/x"), **config})
    assert web.requests == []


@pytest.mark.parametrize(
    ("url", "paths"),
    [("https://h/x.rss", []), ("{{ payload.url }}", []), ("reddit.com/.rss", ["url"]), ("http://[::1", ["url"])],
)
def test_faults_are_found_on_save(url: str, paths: list[str]) -> None:
    assert [fault.path for fault in Feed().check({"url": url}, FakeWorld())] == paths


def test_reading_a_feed_may_be_repeated_and_loads_nothing_into_the_engine() -> None:
    assert Feed().effect_of({}) is Effect.IDEMPOTENT
    code = "import sys, appliance.nodes.feed; sys.exit('feedparser' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
