"""Which address of a name is taken, and that no other socket stays behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from appliance.kernel.mqtt.dial import HEAD_START, Address, dial, first_of
from tests.support.broker import free_port

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


@pytest.fixture
def open_door() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door


@pytest.fixture
def deaf() -> Iterator[Address]:
    """An address from which no answer comes: who waits at its door fills it."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        guests = []
        for _ in range(3):
            guest = socket.socket()
            guest.setblocking(False)
            guest.connect_ex(door.getsockname())
            guests.append(guest)
        yield at(door)
        for guest in guests:
            guest.close()


def at(door: socket.socket) -> Address:
    return socket.AF_INET, door.getsockname()


def nobody() -> Address:
    return socket.AF_INET, ("127.0.0.1", free_port())


def reached(*addresses: Address) -> tuple[str, int]:
    """Where one comes to; fails if more than that one socket stays open."""

    async def go() -> tuple[str, int]:
        before = len(os.listdir("/proc/self/fd"))
        with await first_of(addresses) as sock:
            assert len(os.listdir("/proc/self/fd")) == before + 1
            name: tuple[str, int] = sock.getpeername()
            return name

    return asyncio.run(go())


def test_the_first_that_answers_is_taken(open_door: socket.socket) -> None:
    assert reached(at(open_door)) == open_door.getsockname()
    assert reached(nobody(), at(open_door), nobody()) == open_door.getsockname()
    assert reached((12345, ()), at(open_door)) == open_door.getsockname()


def test_one_that_is_silent_holds_nobody_up(deaf: Address, open_door: socket.socket) -> None:
    async def timed() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        (await first_of([deaf, deaf, at(open_door)])).close()
        return loop.time() - began

    assert asyncio.run(timed()) >= 2 * HEAD_START


def test_why_none_answered_is_told() -> None:
    with pytest.raises(ConnectionRefusedError):
        reached(nobody(), nobody())
    with pytest.raises(socket.gaierror):
        asyncio.run(dial("no-such-host.invalid", 1883))


@pytest.mark.parametrize("turns", range(8))
def test_one_that_is_given_up_at_any_moment_leaves_no_socket(
    open_door: socket.socket, deaf: Address, turns: int
) -> None:
    async def go() -> int:
        before = len(os.listdir("/proc/self/fd"))
        attempt = asyncio.create_task(first_of([at(open_door)] if turns % 2 else [at(open_door), deaf]))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempt.cancel()
        try:
            (await attempt).close()
        except asyncio.CancelledError:
            pass
        return len(os.listdir("/proc/self/fd")) - before

    assert asyncio.run(go()) == 0
