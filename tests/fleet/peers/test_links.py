"""Two engines with a link: who calls, what is asked and answered, what breaks, and what may not be asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import (
    Busy,
    ConfigError,
    NodeError,
    PeerAway,
    PeerFailed,
    PeerNotAllowed,
    PeerRequest,
    PeerRoles,
    TimedOut,
)
from appliance.fleet.peers import wire
from appliance.fleet.peers.book import Known
from appliance.fleet.peers.link import boottime
from edge_agent.protocol.channel import ChannelClosed
from tests.fleet.peers.rig import PATIENCE, Engines, engines, until


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Engines]:
    with engines(tmp_path) as made:
        yield made


def echo(request: PeerRequest) -> None:
    request.answer({"was": request.body, "from": request.peer.name})


def test_two_that_are_paired_ask_each_other(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b, "run")
    a.peers.serve("echo", echo)
    b.peers.serve("echo", echo, "run")
    assert a.ask("beta", "echo", {"t": 1.5}) == {"was": {"t": 1.5}, "from": "alpha"}
    assert b.ask("idalpha", "echo", [1]) == {"was": [1], "from": "beta"}
    state = a.state("beta")
    assert state is not None
    assert (state.address, state.calls_itself, state.url) == ("127.0.0.1", "beta", "http://127.0.0.1:5000")
    assert abs(state.offset) < 1.0


def test_there_is_one_link_however_often_both_call(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    for _ in range(5):
        for engine in (a, b):
            for remote in engine.peers.circle.all:
                engine.peers.post(lambda e=engine, r=remote: e.peers.links.call(r))  # type: ignore[misc]
    a.peers.serve("echo", echo)
    b.peers.serve("echo", echo)

    def settled() -> bool:
        return all(not e.peers.dialing._calling and len(e.peers.links.board._links) == 1 for e in (a, b))

    until(settled, "one link")
    until(lambda: a.connected("beta") and b.connected("alpha"), "the link")
    assert a.ask("beta", "echo", 1)["was"] == 1
    assert b.ask("alpha", "echo", 2)["was"] == 2


def test_one_that_cannot_be_called_calls(made: Engines) -> None:
    """As behind a router: it has no port that others reach."""
    a, b = made("alpha"), made("beta", port=0)
    b.join(a)
    until(lambda: a.connected("beta"), "the link")
    a.peers.stop()
    until(lambda: not b.connected("alpha"), "the end of the link")
    a.begin()
    until(lambda: a.connected("beta"), "the link")


def test_a_machine_that_has_slept_calls_at_once(made: Engines) -> None:
    """Its clock of heartbeats goes on in sleep: silence has lasted an hour, and no heartbeat is waited for."""
    ahead = [0.0]
    a, b = made("alpha", up=lambda: boottime() + ahead[0]), made("beta")
    made.pair(a, b)
    hold = threading.Event()
    b.peers.post(lambda: hold.wait(PATIENCE) and None)  # whose link is dead, as its own side has found meanwhile
    ahead[0] = 3600.0
    until(lambda: a.peers.post(lambda: None) or not a.connected("beta"), "the end of the old link")
    hold.set()
    until(lambda: a.connected("beta") and b.connected("alpha"), "a new link")


def test_one_that_says_nothing_any_more_is_away_within_ten_seconds_and_not_before(made: Engines) -> None:
    ahead = [0.0]
    a, b = made("alpha", up=lambda: boottime() + ahead[0]), made("beta")
    made.pair(a, b)
    hold = threading.Event()
    b.peers.post(lambda: hold.wait(PATIENCE) and None)  # its thread hangs
    link = a.peers.circle.remotes["idbeta"].link
    assert link is not None
    heard = link._heard
    ahead[0] = heard + 8.0 - boottime()
    assert link.tick(0.0) > 0.0
    ahead[0] = heard + 9.5 - boottime()
    with pytest.raises(ChannelClosed, match=r"not been heard of for (9|10) s"):
        link.tick(0.0)
    hold.set()


def test_engines_meet_over_ipv6_and_under_a_name(made: Engines) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 on this machine")
    a, b, c = made("alpha"), made("beta"), made("gamma")
    b.peers.join(a.peers.pair("", None).code, f"[::1]:{a.port}", "", None).result(PATIENCE)
    until(lambda: a.connected("beta"), "the link")
    assert (state := b.state("alpha")) is not None
    assert state.addresses[0] == f"[::1]:{a.port}"
    until(lambda: (state := b.state("alpha")) is not None and state.url == "http://[::1]:5000", "its panel")
    c.peers.join(a.peers.pair("", None).code, f"localhost:{a.port}", "", None).result(PATIENCE)
    until(lambda: a.connected("gamma"), "the link")


def test_a_disk_that_is_full_gives_up_no_link(made: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)

    def full(peer: Known) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(a.peers.circle.book, "write", full)
    b.peers.allow("alpha", PeerRoles(rights=frozenset({"run"})))
    until(lambda: (state := a.state("beta")) is not None and state.allows.may("run"), "what it may")
    assert a.connected("beta")


def test_releases_that_do_not_understand_each_other_say_so(made: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    b.peers.stop()
    until(lambda: not a.connected("beta"), "the end of the link")
    monkeypatch.setattr(wire, "common_version", lambda theirs: None)
    b.begin()
    until(lambda: (state := b.state("alpha")) is not None and state.state == "refused", "the refusal")
    state = b.state("alpha")
    assert state is not None
    assert "bring both to the same release" in state.text
    monkeypatch.undo()
    b.peers.post(b.peers.links.hurry)
    until(lambda: a.connected("beta") and b.connected("alpha"), "the link")


def test_what_went_wrong_over_there_keeps_its_words(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)

    def fails(request: PeerRequest) -> None:
        raise {
            "node": NodeError("the tap is shut", retryable=False, detail={"tap": 3}),
            "busy": Busy("too much", retry_after=7.0),
            "bug": ZeroDivisionError("by zero"),
        }[request.body]

    b.peers.serve("fails", fails)
    with pytest.raises(PeerFailed, match="the peer beta: the tap is shut") as node:
        a.ask("beta", "fails", "node")
    assert (node.value.error_id, node.value.retryable, node.value.detail) == ("node-failed", False, {"tap": 3})
    with pytest.raises(Busy, match="too much") as busy:
        a.ask("beta", "fails", "busy")
    assert busy.value.retry_after == 7.0
    with pytest.raises(PeerFailed, match="ZeroDivisionError") as bug:
        a.ask("beta", "fails", "bug")
    assert bug.value.error_id == "internal"


def test_what_was_not_allowed_is_refused_and_what_is_taken_back_too(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b, "models")
    b.peers.serve("steps", echo, "run")
    with pytest.raises(PeerNotAllowed, match="alpha may not do that here"):
        a.ask("beta", "steps")
    b.peers.allow("alpha", PeerRoles(rights=frozenset({"run"})))
    until(lambda: (state := a.state("beta")) is not None and state.allows.may("run"), "what it may do")
    assert a.ask("beta", "steps", 1)["was"] == 1
    b.peers.allow("alpha", PeerRoles())
    with pytest.raises(PeerNotAllowed):
        a.ask("beta", "steps")
    with pytest.raises(PeerNotAllowed, match="does not know 'nothing'"):
        a.ask("beta", "nothing")


def test_who_is_away_or_unknown_is_told_at_once(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    with pytest.raises(ConfigError, match="no peer 'gamma'"):
        a.ask("gamma", "echo")
    b.peers.stop()
    until(lambda: not a.connected("beta"), "the end of the link")
    with pytest.raises(PeerAway, match="the peer beta is away") as away:
        a.ask("beta", "echo")
    assert away.value.sent is False
    with pytest.raises(ConfigError, match="too many"):
        a.ask("beta", "echo", "x" * 3_000_001)


def test_a_link_that_breaks_ends_what_was_asked_on_both_sides(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    came, ends = threading.Event(), []

    def never(request: PeerRequest) -> None:
        request.on_end(ends.append)
        came.set()

    a.peers.serve("never", never)
    waits = b.peers.request("alpha", "never", None, 60.0)
    assert came.wait(PATIENCE)
    b.peers.post(lambda: b.peers.links.board.drop(next(iter(b.peers.links.board._links)), "the cable was cut"))
    with pytest.raises(PeerAway, match="broke") as broke:
        waits.result(PATIENCE)
    assert broke.value.sent is True
    until(lambda: ends == ["away"], "the end on the other side")
    until(lambda: b.connected("alpha"), "another link")


def test_nobody_waits_for_ever_and_who_gives_up_says_so(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    ends: list[str] = []
    requests: list[PeerRequest] = []

    def never(request: PeerRequest) -> None:
        requests.append(request)
        request.on_end(ends.append)

    b.peers.serve("never", never)
    with pytest.raises(TimedOut, match=r"beta has not answered within 0\.1 s"):
        a.ask("beta", "never", timeout=0.1)
    until(lambda: len(ends) == 1, "the end")
    given_up = a.peers.request("beta", "never", None, 60.0)
    until(lambda: len(requests) == 2, "the request")
    given_up.cancel()
    until(lambda: ends[1:] == ["cancelled"], "the cancellation")
    requests[1].answer("too late")  # and harms nobody
    b.peers.serve("echo", echo)
    assert a.ask("beta", "echo")["was"] is None
    assert not a.peers.circle.remotes["idbeta"].link.asking  # type: ignore[union-attr]
    assert not b.peers.circle.remotes["idalpha"].link.asked  # type: ignore[union-attr]


def test_items_come_in_order_ahead_of_the_answer(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)

    def counts(request: PeerRequest) -> None:
        for number in range(request.body):
            request.item(number)
        request.answer("done")

    b.peers.serve("counts", counts)
    items: list[Any] = []
    assert a.peers.request("beta", "counts", 500, 20.0, items.append).result(PATIENCE) == "done"
    assert items == list(range(500))


def test_who_does_not_take_its_items_holds_up_the_one_who_sends_them(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    busy = threading.Event()

    def floods(request: PeerRequest) -> None:
        def work() -> None:
            try:
                while True:
                    request.item("x" * 1_000_000)
            except Busy:
                busy.set()
                request.answer("enough")

        threading.Thread(target=work, name="floods").start()

    b.peers.serve("floods", floods)
    hold = threading.Event()
    future = a.peers.request("beta", "floods", None, 60.0, lambda item: hold.wait(PATIENCE))
    assert busy.wait(PATIENCE)
    hold.set()
    assert future.result(PATIENCE) == "enough"


def test_a_blob_is_sent_once_whichever_way_it_goes(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    picture = bytes(range(256)) * 5_000  # several pieces

    def turns(request: PeerRequest) -> None:
        data = b.blobs.get(request.body["picture"])
        request.answer({"same": data == picture, "back": b.blobs.put(data[::-1])})

    b.peers.serve("turns", turns)
    body = {"picture": a.blobs.put(picture, "image/png"), "n": [1, 2]}
    answer = a.ask("beta", "turns", body)
    assert answer["same"]
    assert a.blobs.get(answer["back"]) == picture[::-1]
    puts = (a.blobs.put_count, b.blobs.put_count)
    a.ask("beta", "turns", body)
    assert (a.blobs.put_count, b.blobs.put_count) == (puts[0], puts[1] + 1)  # the handler's own
    empty = a.ask("beta", "turns", {"picture": a.blobs.put(b"")})
    assert a.blobs.get(empty["back"]) == b""


def test_a_blob_that_is_gone_fails_the_request_and_none_can_be_had_that_was_not_named(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    b.peers.serve("echo", echo)
    reference = a.blobs.put(b"a secret" * 100)
    a.blobs.kept.clear()
    with pytest.raises(PeerFailed, match="is gone"):
        a.ask("beta", "echo", reference)
    other = b.blobs.put(b"not for alpha")
    link = a.peers.circle.remotes["idbeta"].link
    assert link is not None
    came: list[Any] = []
    link.transfers.came = came.append  # type: ignore[method-assign]
    a.peers.post(lambda: link.send(wire.Want(digest=other["$blob"], offset=0)))
    until(lambda: came, "the answer")
    assert came[0].data == b""


def test_a_thousand_requests_at_once_are_answered_or_refused(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    b.peers.serve("echo", echo)
    futures = [a.peers.request("beta", "echo", n, 60.0) for n in range(1000)]
    answered = 0
    for number, future in enumerate(futures):
        try:
            assert future.result(PATIENCE)["was"] == number
            answered += 1
        except Busy as exc:
            assert exc.retry_after > 0
    assert answered >= 256
    assert a.ask("beta", "echo", 7)["was"] == 7
