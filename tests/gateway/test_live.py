"""Live events over a real WebSocket from a real gateway process, with a real kernel behind it."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from appliance.gateway.hub import MAX_WAITING, Hub, Watcher
from appliance.gateway.live import MAX_MESSAGE, _messages
from appliance.kernel.client import KernelAway, Stream
from tests.gateway.engine import API, Home, wait_for
from tests.gateway.served import Served, watching
from tests.gateway.test_runs import named
from tests.support.flows import compute, node


@pytest.fixture(scope="module")
def served(home: Home) -> Iterator[Served]:
    """The module's engine served by a real process, with room for three panels."""
    made = Served(home.data, threads=19)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def nobody_watches_yet(home: Home, served: Served) -> None:
    """The panels of the test before have been let go of."""

    def watchers() -> int:
        return int(json.loads(served.get(f"{API}/health", home.owner.headers)[1])["gateway"]["sockets"])

    wait_for(lambda: watchers() == 0, "the last panels to go")


def run_of(run: str) -> Any:
    return lambda event: event["type"] == "run" and event["run"] == run and event["state"] == "succeeded"


def is_hello(event: dict[str, Any]) -> bool:
    return event["type"] == "hello"


def test_runs_and_their_steps_are_told_as_they_happen(home: Home, served: Served) -> None:
    name = home.save(named("Watched", compute("a", "1"), compute("b", "2")))
    with watching(served, headers=home.owner.headers) as panel:
        assert panel.until(lambda event: event["type"] == "kernel")["up"] is True
        panel.until(is_hello)
        run = home.run(name)["run"]
        event = panel.until(run_of(run))
        assert (event["flow"], event["trigger"], event["finished"] > event["accepted"]) == (name, "manual", True)
        steps = [step for event in panel.events if event.get("run") == run for step in event["steps"]]
        assert [(step["node"], step["kind"]) for step in steps] == [("a", "done"), ("b", "done")]
        told = home.owner.get(f"/runs/{run}")
        assert (event["version"], event["accepted"], event["finished"]) == (1, told["accepted"], told["finished"])
        assert [step["at"] for step in steps] == [step["started"] for step in told["steps"]]


def test_a_failure_is_told_with_its_error(home: Home, served: Served) -> None:
    name = home.save(named("Watched failing", node("a", "http_request", {"url": "http://127.0.0.1:9/"})))
    with watching(served, headers=home.owner.headers) as panel:
        panel.until(is_hello)
        run = home.run(name)["run"]
        event = panel.until(lambda event: event.get("run") == run and event["state"] == "failed")
        told = home.owner.get(f"/runs/{run}")
        assert (event["error"]["id"], event["error"]["message"]) == (told["error"]["id"], told["error"]["message"])
        assert (event["letter"], event["origin"], event["error"]["node"]) == ("open", None, "a")


def test_a_panel_that_was_cut_off_goes_on_where_it_stopped(home: Home, served: Served) -> None:
    name = home.save(named("Resumed", compute("a", "1")))
    with watching(served, headers=home.owner.headers) as panel:
        panel.until(is_hello)
        first = panel.until(run_of(home.run(name)["run"]))
    missed = [home.run(name)["run"] for _ in range(3)]
    with watching(served, f"?after={first['id']}", headers=home.owner.headers) as panel:
        last = panel.until(run_of(missed[-1]))
        ended = [event["run"] for event in panel.events if event["type"] == "run" and event["state"] == "succeeded"]
        assert ended == missed
        assert not [event for event in panel.events if event["type"] in {"reset", "hello"}]
    with watching(served, f"?after={last['id']}", headers=home.owner.headers) as panel:
        again = home.run(name)["run"]
        panel.until(run_of(again))
        assert len({event["id"] for event in panel.events if "id" in event}) == len(
            [event for event in panel.events if "id" in event]
        )


@pytest.mark.parametrize("after", ["abcdefgh-1", "nonsense", "-5", "x-y"])
def test_who_comes_from_another_time_is_told_to_load_anew(home: Home, served: Served, after: str) -> None:
    with watching(served, f"?after={after}", headers=home.owner.headers) as panel:
        assert panel.until(lambda event: event["type"] == "reset")["id"]


def test_everybody_sees_what_they_may(home: Home, served: Served) -> None:
    mine = home.save(named("Live mine", compute("a", "1")), workspace="live1")
    theirs = home.save(named("Live theirs", compute("a", "1")), workspace="live2")
    reader = home.caller(["runs:read"], "live1")
    with watching(served, headers=reader.headers) as panel:
        panel.until(is_hello)
        home.run(theirs)
        panel.until(run_of(home.run(mine)["run"]))
        assert {event["flow"] for event in panel.events if event["type"] == "run"} == {mine}
    with watching(served, f"?flow={theirs}", headers=home.owner.headers) as panel:
        panel.until(is_hello)
        home.run(mine)
        panel.until(run_of(home.run(theirs)["run"]))
        assert {event["flow"] for event in panel.events if event["type"] == "run"} == {theirs}


def test_a_browser_sends_its_token_as_a_subprotocol(home: Home, served: Served) -> None:
    token = home.owner.headers["Authorization"].removeprefix("Bearer ")
    with watching(served, subprotocols=["flowork", f"flowork.bearer.{token}"]) as panel:
        panel.until(is_hello)
        assert panel.client.subprotocol == "flowork"


def handshake(served: Served, headers: dict[str, str], query: str = "") -> bytes:
    """What a client sends to begin."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(
        [f"GET /api/v1/live{query} HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "Upgrade: websocket",
         "Connection: Upgrade, close", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
         *lines, "", ""]
    ).encode()  # fmt: skip


def refusal(served: Served, headers: dict[str, str], query: str = "") -> tuple[int, dict[str, Any]]:
    """The status and problem of a handshake that is refused."""
    status, body = served.raw(handshake(served, headers, query))
    return status, json.loads(body)


def test_strangers_and_foreign_pages_are_refused_before_the_handshake(home: Home, served: Served) -> None:
    assert refusal(served, {})[0] == 401
    assert refusal(served, {"Authorization": "Bearer flw_x"})[0] == 401
    nothing = home.caller(["metrics:read"])
    assert refusal(served, nothing.headers)[0] == 403
    assert refusal(served, home.owner.headers, "?nothing=1")[0] == 422
    from appliance.security.owner import show_owner

    session = home.sign_in(show_owner(home.data).private_key).headers["Cookie"]
    foreign = {"Cookie": session, "Origin": "http://evil.example"}
    assert refusal(served, foreign)[0] == 403
    assert refusal(served, {"Cookie": session})[0] == 403  # a browser always sends its origin
    with watching(served, headers={"Cookie": session, "Origin": "http://127.0.0.1"}) as panel:
        panel.until(is_hello)
    status, found = served.get(f"{API}/live", home.owner.headers)
    assert status == 400 and b"ws://" in found


def test_threads_are_kept_for_everything_else(home: Home, served: Served) -> None:
    headers = home.owner.headers
    with watching(served, headers=headers) as one, watching(served, headers=headers) as two:
        with watching(served, headers=headers) as three:
            for panel in (one, two, three):
                panel.until(is_hello)
            status, problem = refusal(served, headers)
            assert (status, problem["status"]) == (503, 503)
            assert "as many as" in problem["detail"]
            assert served.get(f"{API}/health")[0] == 200
        wait_for(lambda: is_let_in(served, headers), "a free place")


def is_let_in(served: Served, headers: dict[str, str]) -> bool:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(handshake(served, headers))
        return client.recv(12) == b"HTTP/1.1 101"


def test_a_kernel_that_goes_and_comes_is_told(home: Home, served: Served) -> None:
    name = home.save(named("Comes back", compute("a", "1")))
    with watching(served, headers=home.owner.headers) as panel:
        before = panel.until(is_hello)
        home.stop_kernel()
        panel.until(lambda event: event == {"type": "kernel", "up": False})
        home.start_kernel()
        panel.until(lambda event: event["type"] == "reset")
        panel.events.clear()
        after = panel.until(run_of(home.run(name)["run"]))
        assert after["id"].partition("-")[0] != before["id"].partition("-")[0]


def test_who_reads_too_slowly_is_dropped_and_holds_up_nobody(home: Home) -> None:
    slow, quick = (Watcher(lambda flow: True, threading.Event()) for _ in range(2))
    got = 0
    for number in range(MAX_WAITING + 10):
        for watcher in (slow, quick):
            watcher.put(("k", number, "f", b"{}"))
        got += len(quick.take())
    assert got == MAX_WAITING + 10
    assert slow.dropped and slow.bell.is_set() and not quick.dropped
    assert len(slow.take()) == MAX_WAITING
    slow.put(("k", 1, "f", b"{}"))
    assert slow.take() == []


def test_who_has_missed_too_much_loads_anew_instead_of_being_dropped() -> None:
    """A hub over a stream made by hand."""
    items: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    class FakeStream:
        def items(self) -> Iterator[dict[str, Any]]:
            while (item := items.get()) is not None:
                yield item
            raise KernelAway("gone")

        def close(self) -> None:
            items.put(None)

    hub = Hub(lambda after: cast(Stream, FakeStream()), dict)
    first = Watcher(lambda flow: True, threading.Event())
    hub.add(first, "")
    items.put({"type": "hello", "lives": {"k": 0}})
    for number in range(1, MAX_WAITING):
        items.put({"type": "run", "life": "k", "id": number, "flow": "f"})
    told: list[dict[str, Any]] = []
    wait_for(lambda: told.extend(json.loads(item) for item in first.take()) or len(told) >= MAX_WAITING, "all")

    def greeting(after: str) -> list[dict[str, Any]]:
        watcher = Watcher(lambda flow: True, threading.Event())
        hub.add(watcher, after)
        hub.remove(watcher)
        assert not watcher.dropped
        return [json.loads(item) for item in watcher.take()]

    assert [item["type"] for item in greeting("k-1")] == ["kernel", "reset"]
    newest = MAX_WAITING - 1
    assert [item.get("id") for item in greeting(f"k-{newest - 2}")] == [
        None, f"k-{newest - 1}", f"k-{newest}",
    ]  # fmt: skip
    assert [item["type"] for item in greeting(f"k-{newest}")] == ["kernel"]
    # one that another gateway told, which was quicker: it goes on there, and does not hear that one again
    ahead = Watcher(lambda flow: True, threading.Event())
    hub.add(ahead, f"k-{newest + 1}")
    for number in (newest + 1, newest + 2):
        items.put({"type": "run", "life": "k", "id": number, "flow": "f"})
    heard = [json.loads(item) for item in ahead.take()]
    wait_for(lambda: heard.extend(json.loads(item) for item in ahead.take()) or len(heard) > 1, "the next")
    assert [item.get("id") for item in heard] == [None, f"k-{newest + 2}"]
    hub.remove(ahead)
    assert [item["type"] for item in greeting(f"k-{newest * 100}")] == ["kernel", "reset"]
    hub.remove(first)
    hub.close()


def test_messages_are_gathered_and_bounded() -> None:
    events = [b'{"n":%d,"x":"%s"}' % (n, b"y" * 1000) for n in range(200)]
    messages = _messages(events)
    assert [event["n"] for message in messages for event in json.loads(message)] == list(range(200))
    assert 1 < len(messages) < 10
    assert all(len(message) <= MAX_MESSAGE + 2000 for message in messages)
    assert _messages([]) == []


def test_a_client_that_is_no_websocket_after_all(home: Home, served: Served) -> None:
    token = home.owner.headers["Authorization"]
    head = "GET /api/v1/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    for more in ("", "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 8\r\n"):
        status, _ = served.raw(f"{head}{more}Authorization: {token}\r\n\r\n".encode())
        assert status == 400
    assert served.get(f"{API}/health")[0] == 200


def test_who_was_greeted_before_the_kernel_answered_is_told_to_load_anew() -> None:
    items: queue.Queue[dict[str, Any] | None] = queue.Queue()
    there = threading.Event()

    class FakeStream:
        def items(self) -> Iterator[dict[str, Any]]:
            return iter(items.get, None)

        def close(self) -> None:
            items.put(None)

    def connect(after: dict[str, int] | None) -> Stream:
        if not there.is_set():
            raise KernelAway("not yet")
        return cast(Stream, FakeStream())

    hub = Hub(connect, dict)
    panel = Watcher(lambda flow: True, threading.Event())
    hub.add(panel, "")
    told: list[str] = [json.loads(item)["type"] for item in panel.take()]
    assert told == ["kernel", "hello"]
    there.set()
    items.put({"type": "hello", "lives": {"k": 7}})
    wait_for(lambda: told.extend(json.loads(item)["type"] for item in panel.take()) or "reset" in told, "the reset")
    hub.remove(panel)
    hub.close()
