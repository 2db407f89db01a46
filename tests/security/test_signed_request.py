"""Signed requests: nothing of them can be changed, sent again, sent elsewhere or sent late."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.security.nonces import MemoryNonces
from appliance.security.roles import Unauthorized
from appliance.security.secret import Secret
from appliance.security.signed_request import RequestVerifier, sign_request
from appliance.security.wallet import address_of, checksummed, new_private_key, sign_message
from tests.security.memory import Clock

KEY = Secret("0x" + "46" * 32)
ADDRESS = address_of(KEY)
ENGINE = "mxcb2cmwdfgrhnsj"
TARGET, BODY = "/api/v1/flows?limit=10", b'{"name": "Greenhouse guard"}'


def anybody(address: str) -> bool:
    return True


class Link:
    def __init__(self, known: Callable[[str], bool] = anybody) -> None:
        self.clock, self.known = Clock(), known
        self.verifier = RequestVerifier(ENGINE, MemoryNonces(self.clock), now=self.clock, skew=60)

    def sign(self, method: str = "POST", target: str = TARGET, body: bytes = BODY, engine: str = ENGINE) -> str:
        return sign_request(KEY, method, target, body, engine=engine, now=self.clock())["Authorization"]

    def check(self, header: str, method: str = "POST", target: str = TARGET, body: bytes = BODY) -> str:
        return self.verifier.verify(header, method, target, body, known=self.known)


@pytest.fixture
def link() -> Link:
    return Link()


def test_a_signed_request(link: Link) -> None:
    assert link.check(link.sign()) == ADDRESS
    assert link.check(link.sign("get", "/", b""), "GET", "/", b"") == ADDRESS


def test_what_the_documentation_says_can_be_built_by_hand(link: Link) -> None:
    moment, nonce = str(int(link.clock()) + 1), "0123456789abcdef"
    lines = ["Flowork request v1", ENGINE, "POST", TARGET, hashlib.sha256(BODY).hexdigest(), moment, nonce]
    signature = sign_message(KEY, "\n".join(lines))
    header = f"Flowork address={checksummed(ADDRESS)}, time={moment}, nonce={nonce}, signature={signature}"
    assert link.check(header) == ADDRESS


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "DELETE"},
        {"target": "/api/v1/flows?limit=100"},
        {"target": "/api/v1/flows"},
        {"target": "/api/v1/flows?limit=10 "},
        {"target": "/api/v1//flows?limit=10"},
        {"body": b""},
        {"body": BODY + b" "},
    ],
)
def test_nothing_can_be_changed(link: Link, changed: dict[str, str]) -> None:
    with pytest.raises(Unauthorized, match="does not fit this request"):
        link.check(link.sign(), **changed)


@given(target=st.text(st.characters(codec="utf-8"), max_size=50), body=st.binary(max_size=50))
def test_whatever_else_it_is(target: str, body: bytes) -> None:
    link = Link()
    header = link.sign()
    if (target, body) != (TARGET, BODY):
        with pytest.raises(Unauthorized):
            link.check(header, target=target, body=body)


def test_line_breaks_cannot_shift_fields(link: Link) -> None:
    """A path that holds the lines of another request does not become that request."""
    digest = hashlib.sha256(BODY).hexdigest()
    with pytest.raises(Unauthorized):
        link.check(link.sign(target=f"/a\n{digest}", body=BODY), target="/a", body=BODY)


def test_replay(link: Link) -> None:
    header = link.sign()
    link.check(header)
    for later in (0, 30, 60, 61):
        link.clock.time += later
        with pytest.raises(Unauthorized):
            link.check(header)


def test_nonces_of_two_senders_do_not_collide(link: Link) -> None:
    other = new_private_key()
    header = link.sign()
    link.check(header)
    nonce = header.split("nonce=")[1].split(",")[0]
    moment = header.split("time=")[1].split(",")[0]
    lines = ["Flowork request v1", ENGINE, "POST", TARGET, hashlib.sha256(BODY).hexdigest(), moment, nonce]
    signature = sign_message(other, "\n".join(lines))
    copied = f"Flowork address={address_of(other)}, time={moment}, nonce={nonce}, signature={signature}"
    assert link.check(copied) == address_of(other)


def test_another_engine(link: Link) -> None:
    with pytest.raises(Unauthorized, match="does not fit"):
        link.check(link.sign(engine="another"))


@pytest.mark.parametrize("drift", [-60.0, -59.0, 0.0, 59.0, 60.0])
def test_clocks_may_differ_a_little(link: Link, drift: float) -> None:
    link.clock.time = 1_000_000.0
    link.verifier = RequestVerifier(ENGINE, MemoryNonces(Clock(0.0)), now=link.clock, skew=60)
    header = link.sign()
    link.clock.time += drift
    assert link.check(header) == ADDRESS


@pytest.mark.parametrize("drift", [-61.0, 61.0, 1e6, -1e6])
def test_but_not_more(link: Link, drift: float) -> None:
    header = link.sign()
    link.clock.time += drift
    with pytest.raises(Unauthorized, match="clock says"):
        link.check(header)


def test_a_restart_opens_no_gap(link: Link) -> None:
    header = link.sign()
    link.check(header)
    link.clock.time += 5
    link.verifier = RequestVerifier(ENGINE, MemoryNonces(link.clock), now=link.clock)
    with pytest.raises(Unauthorized, match="before the engine started"):
        link.check(header)


def test_a_stranger_fills_no_memory() -> None:
    known: set[str] = set()
    link = Link(known.__contains__)
    header = link.sign()
    with pytest.raises(Unauthorized, match="no access"):
        link.check(header)
    known.add(ADDRESS)
    assert link.check(header) == ADDRESS


def test_another_address_in_the_header(link: Link) -> None:
    with pytest.raises(Unauthorized, match="does not fit"):
        link.check(link.sign().replace(ADDRESS, address_of(new_private_key())))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer flw_x",
        "Flowork",
        "Flowork address=0x, time=1, nonce=x, signature=0x",
        "Flowork " + "x" * 1_000_000,
        f"Flowork address={ADDRESS}, time=NaN, nonce={'0' * 16}, signature=0x{'1' * 130}",
        f"Flowork address={ADDRESS}, time=-5, nonce={'0' * 16}, signature=0x{'1' * 130}",
        f"Flowork address={ADDRESS}, time=1e9, nonce={'0' * 16}, signature=0x{'1' * 130}",
        f"Flowork address={ADDRESS}, time=5, nonce={'0' * 15}, signature=0x{'1' * 130}",
        f"Flowork address={ADDRESS}, time=٥, nonce={'0' * 16}, signature=0x{'1' * 130}",
        "\ud800",
    ],
)
def test_rubbish(link: Link, header: str) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Flowork"):
        link.check(header)


def test_rubbish_that_looks_right(link: Link) -> None:
    header = f"Flowork address={ADDRESS}, time={link.clock():.0f}, nonce={'0' * 16}, signature=0x{'0' * 130}"
    with pytest.raises(Unauthorized):
        link.check(header)
    with pytest.raises(Unauthorized):
        link.check(link.sign(), target="/\ud800")
