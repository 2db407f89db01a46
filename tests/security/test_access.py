"""Credentials of a request become an identity: each kind, their order, and what ends them."""

from __future__ import annotations

import pytest

from appliance.security.access import Access, Call
from appliance.security.nonces import MemoryNonces
from appliance.security.roles import ANONYMOUS, EVERYWHERE, Forbidden, Role, Unauthorized, local_identity
from appliance.security.secret import Secret
from appliance.security.sessions import Sessions
from appliance.security.signed_request import RequestVerifier, sign_request
from appliance.security.tokens import Tokens
from appliance.security.users import Users
from appliance.security.wallet import address_of
from tests.security.memory import Clock, MemorySessions, MemoryTokens, MemoryUsers

KEY = Secret("0x" + "46" * 32)
OWNER = address_of(KEY)
HOST = "flowork.local:5000"


class Box:
    def __init__(self) -> None:
        self.clock = Clock()
        self.owner: str | None = OWNER
        self.session_rows = MemorySessions()
        self.users = Users(MemoryUsers(), lambda: self.owner, now=self.clock)
        self.sessions = Sessions(self.session_rows, now=self.clock)
        self.tokens = Tokens(MemoryTokens(), now=self.clock)
        requests = RequestVerifier("engine", MemoryNonces(self.clock), now=self.clock)
        self.access = Access(self.users, self.sessions, self.tokens, requests)
        self.cookie = self.sessions.start(OWNER)[0].reveal()
        self.token = self.tokens.create(local_identity("pi"), "t", ["runs:read"])[0].reveal()


@pytest.fixture
def box() -> Box:
    return Box()


def get(cookie: str = "", **headers: str) -> Call:
    return Call(method="GET", target="/", headers={"host": HOST, **headers}, cookie=cookie)


def test_nothing_shown(box: Box) -> None:
    assert box.access.identify(get()) is ANONYMOUS


def test_a_session(box: Box) -> None:
    identity = box.access.identify(get(box.cookie))
    assert (identity.kind, identity.id, identity.roles) == ("user", OWNER, {EVERYWHERE: Role.OWNER})


def test_a_token(box: Box) -> None:
    for scheme in ("Bearer", "bearer"):
        assert box.access.identify(get(authorization=f"{scheme} {box.token}")).kind == "token"


def test_a_signature(box: Box) -> None:
    header = sign_request(KEY, "POST", "/api?x=1", b"body", engine="engine", now=box.clock())["Authorization"]
    call = Call(method="POST", target="/api?x=1", headers={"authorization": header}, body=lambda: b"body")
    assert box.access.identify(call).id == OWNER
    with pytest.raises(Unauthorized, match="came before"):
        box.access.identify(call)


def test_the_header_comes_before_the_cookie(box: Box) -> None:
    assert box.access.identify(get(box.cookie, authorization=f"Bearer {box.token}")).kind == "token"
    for header in ("Bearer flw_wrong", "Bearer", "Basic YTpi", "Flowork rubbish", "x"):
        with pytest.raises(Unauthorized):
            box.access.identify(get(box.cookie, authorization=header))


def test_a_cookie_needs_our_own_page(box: Box) -> None:
    def post(**headers: str) -> Call:
        return Call(method="POST", target="/", headers={"host": HOST, **headers}, cookie=box.cookie)

    assert box.access.identify(post(origin=f"http://{HOST}")).id == OWNER
    for headers in ({}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        with pytest.raises(Forbidden, match="another site"):
            box.access.identify(post(**headers))
    socket = Call(
        method="GET",
        target="/live",
        headers={"host": HOST, "origin": "https://evil.example"},
        cookie=box.cookie,
        websocket=True,
    )
    with pytest.raises(Forbidden, match="another site"):
        box.access.identify(socket)


def test_a_token_needs_no_page(box: Box) -> None:
    headers = {"host": HOST, "origin": "https://evil.example", "authorization": f"Bearer {box.token}"}
    assert box.access.identify(Call(method="POST", target="/", headers=headers)).kind == "token"


def test_an_ended_session(box: Box) -> None:
    for cookie in ("rubbish", "x" * 43):
        with pytest.raises(Unauthorized, match="sign in again"):
            box.access.identify(get(cookie))
    box.sessions.end(box.cookie)
    with pytest.raises(Unauthorized, match="sign in again"):
        box.access.identify(get(box.cookie))


def test_who_loses_access_loses_all_sessions(box: Box) -> None:
    box.sessions.start(OWNER)
    box.owner = "0x" + "9" * 40
    with pytest.raises(Unauthorized, match="any more"):
        box.access.identify(get(box.cookie))
    assert not box.session_rows.rows


def test_the_body_is_read_for_signatures_only(box: Box) -> None:
    def body() -> bytes:
        raise AssertionError("read")

    for headers in ({}, {"authorization": f"Bearer {box.token}"}):
        box.access.identify(Call(method="POST", target="/", headers=headers, body=body))
