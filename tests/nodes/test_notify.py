"""The notify node: real Apprise against a real web server, and what it may show of its targets."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from appliance.contracts import ConfigError, Effect, Limits, NodeError, Sandbox
from appliance.nodes.notify import Notify
from tests.support.calls import Run, real_services
from tests.support.context import FakeContext, FakeWorld, run_node
from tests.support.web import WebServer, never_answer, web_server

Send = Callable[..., Any]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with web_server() as server:
        yield server


def target(web: WebServer, path: str, status: int = 200) -> str:
    """An Apprise URL that posts JSON to the path."""
    return web.answer(path, status).replace("http://", "json://")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with real_services(tmp_path_factory.mktemp("data")) as run:
        yield run


@pytest.fixture
def notify(run: Run) -> Send:
    return lambda ctx=None, **config: run(Notify(), config, ctx or FakeContext())


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_message_arrives_whole(notify: Send, web: WebServer) -> None:
    result = notify(to=target(web, "/hook"), text="es brennt ü", title="Alarm", kind="failure")
    assert result == {"sent": ["json://127.0.0.1"]}
    said = json.loads(web.requests[0].body)
    assert (said["title"], said["message"], said["type"]) == ("Alarm", "es brennt ü", "failure")


def test_every_target_gets_it(notify: Send, web: WebServer) -> None:
    one, two = target(web, "/one"), target(web, "/two")
    assert len(notify(to=[one, two], text="x")["sent"]) == 2
    notify(to=f"\n {one} \n\n{two}\n", text="x")
    assert [seen.target for seen in web.requests] == ["/one", "/two"] * 2


def test_blobs_are_attached(notify: Send, web: WebServer) -> None:
    ctx = FakeContext()
    reference = ctx.blobs.put(b"\x89PNG", "image/png") | {"name": "door.png"}
    notify(ctx, to=target(web, "/hook"), text="x", attachments=[reference])
    (attached,) = json.loads(web.requests[0].body)["attachments"]
    assert base64.b64decode(attached["base64"]) == b"\x89PNG"
    assert (attached["filename"], attached["mimetype"]) == ("door.png", "image/png")


def test_all_targets_failing_may_be_retried(notify: Send, web: WebServer) -> None:
    with pytest.raises(NodeError, match="1 of 1") as caught:
        notify(to=target(web, "/hook", 503), text="x")
    assert caught.value.retryable
    assert "503" in caught.value.message


def test_a_partial_failure_names_who_was_not_reached_and_is_not_repeated(notify: Send, web: WebServer) -> None:
    bad = f"json://me:hush1@127.0.0.1:{closed_port()}/hush2?token=hush3"
    with pytest.raises(
        NodeError, match=r"1 of 3 targets were not reached: json://127.0.0.1 \(target 2 of 3\)"
    ) as caught:
        notify(to=[target(web, "/one"), bad, target(web, "/three")], text="x")
    assert not caught.value.retryable
    assert [entry["ok"] for entry in caught.value.detail["targets"]] == [True, False, True]
    assert "hush" not in caught.value.message + json.dumps(caught.value.detail)
    assert [seen.target for seen in web.requests] == ["/one", "/three"]


def test_secrets_in_the_path_do_not_show_in_the_reason(notify: Send, web: WebServer) -> None:
    with pytest.raises(NodeError) as caught:
        notify(to=target(web, "/hush1/x?hush2=1", 404).replace("json://", "json://hush3:hush4@"), text="x")
    assert "hush" not in caught.value.message + json.dumps(caught.value.detail)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("tgram://123456789:hushhushhushhushhush/hush", "tgram://"),
        ("ntfy://hush", "ntfy://"),
        ("slack://hushhushA/hushhushB/hushhush", "slack://"),
        ("hush", "a text without scheme"),
        ("hush hush://x", "a text without scheme"),
    ],
)
def test_no_token_is_taken_for_a_host(notify: Send, url: str, shown: str) -> None:
    unknown = "nonsense://hush-host/hush"
    with pytest.raises(ConfigError) as caught:
        notify(to=[url, unknown], text="x")
    assert "nonsense:// (target 2 of 2)" in caught.value.message
    assert "hush" not in caught.value.message
    if "://" not in url:
        assert f"{shown} (target 1 of 2)" in caught.value.message


def test_nothing_is_sent_if_one_url_is_wrong(notify: Send, web: WebServer) -> None:
    with pytest.raises(ConfigError, match="target 2 of 2"):
        notify(to=[target(web, "/one"), "nonsense://x"], text="x")
    assert web.requests == []


def test_a_target_that_hangs_is_given_up_and_not_told_again(notify: Send, web: WebServer) -> None:
    hanging = web.answer("/slow", on=never_answer).replace("http://", "json://")
    with pytest.raises(NodeError, match="unknown") as caught:
        notify(to=hanging, text="x", timeout="1s")
    assert not caught.value.retryable


class NoChild:
    """A sandbox on a machine that can start no process now."""

    async def call(self, module: str, function: str, arguments: Any, limits: Limits) -> Any:
        raise NodeError("python could not be started: out of memory")


def test_a_child_that_was_never_started_may_be_retried() -> None:
    ctx = FakeContext(sandbox=cast("Sandbox", NoChild()))
    with pytest.raises(NodeError, match="could not be started") as caught:
        run_node(Notify(), {"to": "json://h", "text": "x"}, None, ctx)
    assert caught.value.retryable


def test_apprise_is_not_loaded_with_the_node() -> None:
    code = "import sys, appliance.nodes.notify; sys.exit('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "config",
    [
        {"text": "x"},
        {"to": "json://h"},
        {"to": "json://h", "text": ""},
        {"to": [], "text": "x"},
        {"to": " \n", "text": "x"},
        {"to": "json://h", "text": "x", "kind": "loud"},
        {"to": "json://h", "text": "x", "timeout": "soon"},
    ],
)
def test_a_bad_config_is_refused(notify: Send, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        notify(**config)


def test_too_much_attached_is_refused(notify: Send) -> None:
    ctx = FakeContext()
    with pytest.raises(ConfigError, match="attachments"):
        notify(ctx, to="json://h", text="x", attachments=[ctx.blobs.put(bytes(10_000_001))])


@pytest.mark.parametrize(
    ("to", "paths"),
    [
        ("mailto://u:p@example.com", []),
        ("{{ secrets.mail }}", []),
        (["json://h", "{{ payload.x }}"], []),
        ("someone@example.com", ["to"]),
        ("", ["to"]),
        ([], ["to"]),
        (["json://h", "0800 123"], ["to[1]"]),
    ],
)
def test_faults_are_found_on_save(to: Any, paths: list[str]) -> None:
    assert [fault.path for fault in Notify().check({"to": to, "text": "x"}, FakeWorld())] == paths


def test_a_notification_is_sent_once() -> None:
    assert Notify().effect_of({}) is Effect.ONCE
