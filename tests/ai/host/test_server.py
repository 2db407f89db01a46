"""The server's own rules, in this process: who is served when it leaves, and how many at once."""

from __future__ import annotations

import asyncio
import select
import socket
from pathlib import Path

import pytest

from appliance.ai.host import door, server
from appliance.ai.host.http import Reply, Request
from appliance.ai.host.server import Server
from appliance.ai.host.shelf import Shelf

ASK = b"POST /x HTTP/1.1\r\nHost: models\r\nContent-Length: 0\r\n\r\n"
LOOK = b"GET /x HTTP/1.1\r\nHost: models\r\n\r\n"


class Clock:
    """Seconds by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A server whose handler answers when ``gate`` is open; its models are none."""

    def __init__(self, data: Path, idle: float) -> None:
        self.clock = Clock()
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        shelf = Shelf(data, 0, {}, lambda: 0, self.clock)
        self.server = Server(self._answer, shelf, idle, self.clock)

    async def _answer(self, request: Request, reply: Reply) -> None:
        self.asked += 1
        await self.gate.wait()
        await reply.send({"ok": True})


def call(data: Path, asking: bytes = ASK) -> socket.socket:
    """A caller that has asked."""
    link = socket.socket(socket.AF_UNIX)
    link.setblocking(False)
    with door.address(data) as address:
        link.connect(address)
    link.sendall(asking)
    return link


async def heard(link: socket.socket) -> bytes:
    """What a caller hears until it is hung up on, or has a whole answer."""
    loop, said = asyncio.get_running_loop(), b""
    while not said.endswith(b"}") and (data := await loop.sock_recv(link, 1000)):
        said += data
    return said


@pytest.mark.parametrize("turns", range(8))
def test_who_comes_at_the_moment_of_leaving_is_served_or_waits_in_the_door(data: Path, turns: int) -> None:
    async def scene() -> None:
        with door.listen(data) as ours:
            desk = Desk(data, 0.01)
            running = asyncio.create_task(desk.server.run(ours.dup()))
            await asyncio.sleep(0)
            desk.clock.now = 100.0
            for _ in range(turns):
                await asyncio.sleep(0)
            with call(data) as link:
                assert await asyncio.wait_for(running, 20) is True
                waits = bool(select.select([ours], [], [], 0)[0])
                assert waits or b"HTTP/1.1 200" in await heard(link), "it was let in and sent away"

    asyncio.run(scene())


def test_a_request_that_was_let_in_is_answered_before_it_leaves(data: Path) -> None:
    async def scene() -> None:
        with door.listen(data) as ours:
            desk = Desk(data, 0.01)
            desk.gate.clear()
            running = asyncio.create_task(desk.server.run(ours.dup()))
            with call(data) as link:
                while not desk.asked:  # noqa: ASYNC110  # the handler's own turn
                    await asyncio.sleep(0)
                desk.clock.now = 100.0
                done, _ = await asyncio.wait({running}, timeout=0.05)
                assert not done, "it works"
                desk.gate.set()
                assert b"HTTP/1.1 200" in await heard(link)
                desk.clock.now = 200.0
                assert await asyncio.wait_for(running, 20) is True

    asyncio.run(scene())


def test_who_only_looks_does_not_keep_it_however_often_he_comes(data: Path) -> None:
    async def scene() -> None:
        with door.listen(data) as ours:
            desk = Desk(data, 0.05)
            running = asyncio.create_task(desk.server.run(ours.dup()))
            with call(data, LOOK) as link:
                assert b"HTTP/1.1 200" in await heard(link)
            desk.clock.now = 0.06
            with call(data, LOOK):
                assert await asyncio.wait_for(running, 20) is True

    asyncio.run(scene())


@pytest.mark.parametrize("idle", [0, 1000.0])
def test_who_tells_it_to_leave_waits_for_nothing_but_its_work(data: Path, idle: float) -> None:
    async def scene() -> None:
        with door.listen(data) as ours:
            desk = Desk(data, idle)
            desk.gate.clear()
            running = asyncio.create_task(desk.server.run(ours.dup()))
            with call(data) as link:
                while not desk.asked:  # noqa: ASYNC110  # the handler's own turn
                    await asyncio.sleep(0)
                desk.server.leave()
                done, _ = await asyncio.wait({running}, timeout=0.05)
                assert not done, "it works"
                desk.gate.set()
                assert b"HTTP/1.1 200" in await heard(link)
                assert await asyncio.wait_for(running, 20) is True

    asyncio.run(scene())


@pytest.mark.parametrize("idle", [0, 1000.0])
def test_one_that_is_never_without_work_leaves_all_the_same(data: Path, idle: float) -> None:
    async def scene() -> None:
        with door.listen(data) as ours:
            desk = Desk(data, idle)
            running = asyncio.create_task(desk.server.run(ours.dup()))
            with call(data) as one, call(data) as other:
                for link in (one, other):
                    assert b"connection: close" not in (await heard(link)).lower()
                desk.gate.clear()
                one.sendall(ASK)
                while desk.asked < 3:  # noqa: ASYNC110  # the handler's own turn
                    await asyncio.sleep(0)
                desk.server.leave()
                desk.clock.now = server._POLITE
                await asyncio.sleep(0.05)
                other.sendall(ASK)
                with call(data) as late:
                    while desk.asked < 4:  # noqa: ASYNC110  # the handler's own turn
                        await asyncio.sleep(0)
                    assert not running.done(), "it works"
                    desk.gate.set()
                    for link in (one, other):
                        told = await heard(link)
                        assert b"HTTP/1.1 200" in told
                        assert b"connection: close" in told.lower(), "or the caller asks here again"
                    assert await asyncio.wait_for(running, 20) is True
                    assert select.select([ours], [], [], 0)[0], "it waits in the door"
                    assert not select.select([late], [], [], 0)[0]
                assert desk.asked == 4

    asyncio.run(scene())


def test_more_callers_than_it_takes_are_told_to_come_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CALLERS", 2)

    async def scene() -> None:
        with door.listen(data) as ours:
            desk = Desk(data, 0)
            desk.gate.clear()
            running = asyncio.create_task(desk.server.run(ours.dup()))
            links = [call(data) for _ in range(3)]
            told = await heard(links[2])
            assert b"429" in told
            assert b"Retry-After: 2" in told
            desk.gate.set()
            for link in links[:2]:
                assert b"HTTP/1.1 200" in await heard(link)
            for link in links:
                link.close()
            desk.server.stop()
            desk.server.stop()
            assert await asyncio.wait_for(running, 20) is True

    asyncio.run(scene())


def test_a_caller_that_says_nothing_does_not_keep_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOOK", 0.0)

    async def scene() -> None:
        with door.listen(data) as ours, socket.socket(socket.AF_UNIX) as silent:
            desk = Desk(data, 0.01)
            running = asyncio.create_task(desk.server.run(ours.dup()))
            with door.address(data) as address:
                silent.connect(address)
            for _ in range(20):
                await asyncio.sleep(0)
            while not running.done():
                desk.clock.now += 1.0
                await asyncio.sleep(0)
            assert running.result() is True

    asyncio.run(scene())
