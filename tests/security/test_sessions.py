"""Sessions: kept as hashes, sliding, ended in time, and sparing with writes."""

from __future__ import annotations

import hashlib

import pytest

from appliance.security.roles import Unauthorized
from appliance.security.sessions import DAY, Sessions, cookie_name, cookie_options
from tests.security.memory import Clock, MemorySessions


class Desk:
    def __init__(self) -> None:
        self.clock, self.repo = Clock(), MemorySessions()
        self.sessions = Sessions(self.repo, now=self.clock, idle=7 * DAY, longest=30 * DAY)

    def start(self, address: str = "0xa") -> str:
        return self.sessions.start(address)[0].reveal()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_session(desk: Desk) -> None:
    token, expires = desk.sessions.start("0xa")
    assert desk.sessions.check(token.reveal()) == "0xa"
    assert expires == desk.clock() + 7 * DAY
    assert len(token.reveal()) == 43


def test_only_the_hash_is_kept(desk: Desk) -> None:
    token = desk.start()
    assert list(desk.repo.rows) == [hashlib.sha256(token.encode()).hexdigest()]
    assert token not in str(desk.repo.rows)


def test_it_slides_while_used(desk: Desk) -> None:
    token = desk.start()
    for _ in range(4):
        desk.clock.time += 6 * DAY
        assert desk.sessions.check(token) == "0xa"
    desk.clock.time += 7 * DAY
    with pytest.raises(Unauthorized, match="sign in again"):
        desk.sessions.check(token)


def test_but_not_for_ever(desk: Desk) -> None:
    token = desk.start()
    for _ in range(29):
        desk.clock.time += DAY
        desk.sessions.check(token)
    desk.clock.time += DAY
    with pytest.raises(Unauthorized):
        desk.sessions.check(token)


def test_a_hundred_requests_are_one_write_at_most(desk: Desk) -> None:
    token = desk.start()
    for _ in range(100):
        desk.clock.time += 60
        desk.sessions.check(token)
    assert desk.repo.writes == 0
    desk.clock.time += DAY
    for _ in range(100):
        desk.sessions.check(token)
    assert desk.repo.writes == 1


def test_sign_out(desk: Desk) -> None:
    token, other = desk.start(), desk.start()
    assert desk.sessions.end(token)
    assert not desk.sessions.end(token)
    with pytest.raises(Unauthorized):
        desk.sessions.check(token)
    assert desk.sessions.check(other) == "0xa"


def test_sign_out_everywhere(desk: Desk) -> None:
    tokens, other = [desk.start() for _ in range(3)], desk.start("0xb")
    assert desk.sessions.end_all("0xa") == 3
    for token in tokens:
        with pytest.raises(Unauthorized):
            desk.sessions.check(token)
    assert desk.sessions.check(other) == "0xb"


def test_ended_sessions_do_not_pile_up(desk: Desk) -> None:
    for _ in range(50):
        desk.start()
        desk.clock.time += 8 * DAY
    assert len(desk.repo.rows) == 1


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "é" * 43, "\ud800" * 43, "\0" * 43, "x" * 10_000_000])
def test_rubbish(desk: Desk, token: str) -> None:
    desk.start()
    with pytest.raises(Unauthorized):
        desk.sessions.check(token)
    assert not desk.sessions.end(token)


def test_the_cookie() -> None:
    options = cookie_options(secure=False, max_age=7 * DAY)
    assert (options["httponly"], options["samesite"], options["max_age"]) == (True, "Strict", 604800)
    assert cookie_options(secure=True, max_age=1)["secure"] is True
    assert cookie_name("abc") != cookie_name("abd")
