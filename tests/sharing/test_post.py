"""Messages between processes: sealed, gathered, and not lost while the service is away for a moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from appliance.security.sealing import Cipher, NotSealed, Opener, Sealer
from appliance.sharing.post import Post
from appliance.sharing.service import Service, ServiceAway
from tests.queue.support import until

KEY = bytes(range(32))
MakePost = Callable[..., tuple[Post, list[Any]]]


@pytest.fixture
def make_post(open_shared: Callable[[], Service]) -> Iterator[MakePost]:
    with ExitStack() as stack:

        def make(box: str, key: bytes = KEY, service: Service | None = None) -> tuple[Post, list[Any]]:
            got: list[Any] = []
            post = Post(service or open_shared(), Cipher(key), box, got.append)
            post.start()
            stack.callback(post.stop)
            return post, got

        yield make


def test_parts_come_in_order(make_post: MakePost) -> None:
    ann, _ = make_post("ann")
    _, got = make_post("bob")
    for number in range(500):
        ann.send("bob", ["note", number])
    until(lambda: len(got) == 500)
    assert got == [["note", number] for number in range(500)]


def test_what_others_put_into_the_box_is_thrown_away(make_post: MakePost, open_shared: Callable[[], Service]) -> None:
    stranger, _ = make_post("stranger", key=bytes(32))
    ann, _ = make_post("ann")
    _, got = make_post("bob")
    stranger.send("bob", ["note", "forged"])
    open_shared().send("bob", os.urandom(100))
    open_shared().send("bob", b"")
    until(lambda: not stranger._waiting)
    ann.send("bob", ["note", "real"])
    until(lambda: got)
    assert got == [["note", "real"]]


def test_a_handler_that_fails_costs_only_its_part(open_shared: Callable[[], Service]) -> None:
    got: list[Any] = []

    def handle(part: Any) -> None:
        if part == "bad":
            raise ValueError(part)
        got.append(part)

    post = Post(open_shared(), Cipher(KEY), "box", handle)
    post.start()
    for part in ("one", "bad", "two"):
        post.send("box", part)
    until(lambda: len(got) == 2)
    post.stop()
    assert got == ["one", "two"]


class Flaky:
    """A service that is away until somebody mends it."""

    def __init__(self, inner: Service) -> None:
        self._inner = inner
        self.broken = threading.Event()

    def send(self, box: str, data: bytes) -> None:
        if self.broken.is_set():
            raise ServiceAway("gone")
        self._inner.send(box, data)

    def receive(self, box: str, timeout: float) -> list[bytes]:
        if self.broken.is_set():
            raise ServiceAway("gone")
        return self._inner.receive(box, min(timeout, 0.05))


def test_a_service_that_is_away_is_told_and_comes_back(make_post: MakePost, open_shared: Callable[[], Service]) -> None:
    flaky = Flaky(open_shared())
    post, got = make_post("ann", service=flaky)
    flaky.broken.set()
    failures: list[Exception] = []
    post.send("ann", 1, failures.append)
    until(lambda: failures)
    until(lambda: post.away == "gone")
    flaky.broken.clear()
    until(lambda: not post.away)
    post.send("ann", 2)
    until(lambda: got)
    assert got == [2]


def test_a_message_counts_once_and_for_its_box_only() -> None:
    cipher = Cipher(KEY)
    sealer, opener = Sealer(cipher), Opener(cipher, "box")
    messages = [sealer.seal(b"%d" % number, "box") for number in range(10)]
    # Threads may send out of order.
    assert [opener.open(message) for message in reversed(messages)] == [b"%d" % n for n in reversed(range(10))]
    for message in messages:
        with pytest.raises(NotSealed, match="twice"):
            opener.open(message)
    with pytest.raises(NotSealed):
        opener.open(sealer.seal(b"data", "another box"))
    changed = bytearray(sealer.seal(b"data", "box"))
    changed[-1] ^= 1
    with pytest.raises(NotSealed):
        opener.open(bytes(changed))


def test_a_replay_of_old_messages_is_known_after_many_others() -> None:
    cipher = Cipher(KEY)
    sealer, opener = Sealer(cipher), Opener(cipher, "box")
    first = sealer.seal(b"first", "box")
    opener.open(first)
    for _ in range(20_000):
        opener.open(sealer.seal(b"", "box"))
    with pytest.raises(NotSealed, match="twice"):
        opener.open(first)
