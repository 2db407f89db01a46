"""The kernel's socket: garbage, callers that never read, too many of them, and stopping while they are there."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Busy, FlowError
from appliance.kernel import server as serving
from appliance.kernel import wire
from appliance.kernel.client import KernelAway, KernelClient, Refused, Unsendable
from appliance.kernel.server import Params, Reply, Server

KEPT: list[Reply] = []


def echo(params: Params, reply: Reply) -> None:
    reply.ok(params["value"])


def fails(params: Params, reply: Reply) -> None:
    raise RuntimeError("a mistake")


def refuses(params: Params, reply: Reply) -> None:
    raise Busy("later", retry_after=7)


def large(params: Params, reply: Reply) -> None:
    reply.ok(b"x" * params["size"])


def strange(params: Params, reply: Reply) -> None:
    reply.ok(1 << 70)


def keep(params: Params, reply: Reply) -> None:
    KEPT.append(reply)


def pour(params: Params, reply: Reply) -> None:
    for _ in range(100):
        reply.item("x" * 1_000_000)


METHODS = {
    "echo": echo,
    "fails": fails,
    "refuses": refuses,
    "large": large,
    "strange": strange,
    "keep": keep,
    "pour": pour,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    KEPT.clear()
    made = Server(tmp_path, METHODS)
    made.start()
    yield made
    made.stop()
    made.stop()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[KernelClient]:
    made = KernelClient(tmp_path)
    yield made
    made.close()
    made.close()


@pytest.fixture
def link(server: Server, tmp_path: Path) -> Iterator[socket.socket]:
    with wire.connect(tmp_path, 5) as made:
        yield made


def answer(link: socket.socket) -> Any:
    buffer = bytearray()
    while True:
        data = link.recv(65_536)
        assert data, "the connection was closed"
        buffer += data
        for message in wire.frames(buffer):
            return message


def closed(link: socket.socket) -> bool:
    link.settimeout(5)
    try:
        while link.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_values_come_back_as_they_went(client: KernelClient) -> None:
    for value in (None, True, 1.5, "ü\0", b"\x00", [1, [2]], {"a": {"b": 1}}, (1 << 63) - 1, "x" * 1_000_000):
        assert client.call("echo", value=value) == value


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        (wire.MAX_FRAME + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x00",
        wire.frame("hello"),
        wire.frame([1, 2]),
        wire.frame([]),
        wire.frame(["one", "echo", {}]),
        wire.frame({"a": 1}),
        b"\x00\x01\x00\x00" + b"\x91" * 65_536,
        b"\x00\x00\x00\x05\x81\x81\x01\x02\x03",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_garbage_cuts_off_its_sender_and_nobody_else(client: KernelClient, link: socket.socket, garbage: bytes) -> None:
    link.sendall(garbage)
    assert closed(link)
    assert client.call("echo", value=1) == 1


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ([1, "nothing", {}], "bad-request"),
        ([1, 5, {}], "bad-request"),
        ([1, ["echo"], {}], "bad-request"),
        ([1, "echo", {}], "bad-request"),
        ([1, "echo", None], "bad-request"),
        ([1, "echo", [1]], "bad-request"),
        ([1, "echo", {1: 2}], "bad-request"),
        ([1, "fails", {}], "internal"),
        ([1, "strange", {}], "internal"),
        ([1, "refuses", {}], "busy"),
    ],
)
def test_what_is_wrong_with_a_call_is_told(link: socket.socket, request_: list[Any], error: str) -> None:
    link.sendall(wire.frame(request_))
    number, status, result = answer(link)
    assert (number, status, result["id"]) == (1, wire.ERROR, error)
    link.sendall(wire.frame([2, "echo", {"value": 3}]))
    assert answer(link) == [2, wire.OK, 3]


def test_a_frame_in_pieces_and_many_in_one(link: socket.socket) -> None:
    data = wire.frame([1, "echo", {"value": "x" * 100}])
    for at in range(len(data)):
        link.sendall(data[at : at + 1])
    assert answer(link)[2] == "x" * 100
    link.sendall(b"".join(wire.frame([n, "echo", {"value": n}]) for n in range(500)))
    buffer = bytearray()
    seen: list[int] = []
    while len(seen) < 500:
        buffer += link.recv(65_536)
        seen += [message[2] for message in wire.frames(buffer)]
    assert seen == list(range(500))


def test_a_frame_that_never_ends(client: KernelClient, link: socket.socket) -> None:
    link.sendall(wire.frame([1, "echo", {"value": 1}])[:-1])
    assert client.call("echo", value=1) == 1
    link.close()
    assert client.call("echo", value=1) == 1


def test_a_large_answer_arrives(client: KernelClient) -> None:
    assert len(client.call("large", size=40_000_000)) == 40_000_000
    with pytest.raises(Refused, match="too large"):
        client.call("large", size=70_000_000)


def test_what_cannot_be_sent_is_refused_here(client: KernelClient) -> None:
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    for value in (1 << 70, "\ud800", nested, b"x" * 65_000_000):
        with pytest.raises(Unsendable):
            client.call("echo", value=value)
    assert client.call("echo", value=1) == 1


def test_a_caller_that_never_reads_is_cut_off(server: Server, client: KernelClient, link: socket.socket) -> None:
    link.sendall(wire.frame([1, "pour", {}]))
    assert closed(link)
    assert client.call("echo", value=1) == 1
    assert len(server._callers) == 1


def test_more_callers_than_there_is_room_for(
    server: Server, client: KernelClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_CALLERS", 50)
    assert client.call("echo", value=1) == 1
    links = [wire.connect(tmp_path, 5) for _ in range(120)]
    for one in links[60:]:
        assert closed(one)
    assert client.call("echo", value=2) == 2
    for one in links:
        one.close()
    for _ in range(200):
        with KernelClientOnce(tmp_path) as other:
            try:
                assert other.call("echo", value=3) == 3
                break
            except KernelAway:
                continue
    else:
        pytest.fail("the room of those who left is not used again")


class KernelClientOnce(KernelClient):
    """A client for one block."""

    def __enter__(self) -> KernelClientOnce:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_no_descriptor_left(
    server: Server, client: KernelClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It waits for one instead of spinning."""

    class Starved:
        def __init__(self, real: socket.socket) -> None:
            self.real, self.times = real, 0

        def accept(self) -> Any:
            self.times += 1
            if self.times < 4:
                raise OSError(24, "Too many open files")
            return self.real.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    listener = server._listener
    assert listener is not None
    starved = Starved(listener)
    monkeypatch.setattr(server, "_listener", starved)
    with caplog.at_level(logging.WARNING):
        assert client.call("echo", value=1) == 1
    assert starved.times == 4


def test_stopping_answers_those_under_way_and_refuses_the_rest(
    server: Server, client: KernelClient, tmp_path: Path
) -> None:
    results: list[Any] = []

    def call() -> None:
        with KernelClientOnce(tmp_path) as other:
            results.append(other.call("keep"))

    waiting = threading.Thread(target=call)
    waiting.start()
    client.call("echo", value=1)
    while not KEPT:
        client.call("echo", value=1)
    server.quiet()
    with pytest.raises(Busy):
        client.call("echo", value=1)
    KEPT[0].ok("late")
    KEPT[0].ok("twice")
    server.stop()
    waiting.join(5)
    assert results == ["late"]
    assert not (tmp_path / wire.SOCKET).exists()
    KEPT[0].caller.send(b"nobody")
    with pytest.raises(KernelAway):
        client.call("echo", value=1)


def test_a_kernel_that_goes_away_in_the_middle(server: Server, client: KernelClient, tmp_path: Path) -> None:
    failures: list[FlowError] = []

    def call() -> None:
        with KernelClientOnce(tmp_path) as other:
            try:
                other.call("keep")
            except FlowError as exc:
                failures.append(exc)

    waiting = threading.Thread(target=call)
    waiting.start()
    while not KEPT:
        client.call("echo", value=1)
    server.stop()
    waiting.join(5)
    assert isinstance(failures[0], KernelAway) and failures[0].sent
    with pytest.raises(KernelAway) as away:
        client.call("echo", value=1)
    assert not away.value.sent


def test_secrets_do_not_leave(tmp_path: Path) -> None:
    def scrub(result: Any, packed: bytes) -> Any:
        return "•••" if b"hunter2" in packed else result

    guarded = Server(tmp_path, METHODS, scrub)
    guarded.start()
    other = KernelClient(tmp_path)
    try:
        assert other.call("echo", value="hunter2") == "•••"
        assert other.call("echo", value="hunter3") == "hunter3"
    finally:
        other.close()
        guarded.stop()


def test_a_dead_socket_file_is_replaced(tmp_path: Path, make_server: Callable[[], Server]) -> None:
    (tmp_path / wire.SOCKET).write_text("left behind")
    make_server()
    with KernelClientOnce(tmp_path) as other:
        assert other.call("echo", value=1) == 1


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    made: list[Server] = []

    def make() -> Server:
        made.append(Server(tmp_path, METHODS))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()
