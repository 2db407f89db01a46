"""Engine tokens: shown once, hashed, scoped, ended by time or by hand."""

from __future__ import annotations

import hashlib
import re

import pytest

from appliance.contracts import ConfigError
from appliance.security.roles import (
    ADMIN_SCOPE,
    EVERYWHERE,
    Forbidden,
    Identity,
    Role,
    Unauthorized,
    allowed,
    local_identity,
)
from appliance.security.tokens import LAST_USED_EVERY, Tokens
from tests.security.memory import Clock, MemoryTokens

OWNER = Identity(kind="user", id="0x0", roles={EVERYWHERE: Role.OWNER})
ADMIN = Identity(kind="user", id="0xa", roles={"default": Role.ADMIN})


class Desk:
    def __init__(self) -> None:
        self.clock, self.repo = Clock(), MemoryTokens()
        self.tokens = Tokens(self.repo, now=self.clock)

    def create(self, *scopes: str, lifetime: float | None = None) -> str:
        return self.tokens.create(ADMIN, "sensor", scopes or ("runs:write",), lifetime=lifetime)[0].reveal()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_token(desk: Desk) -> None:
    text, row = desk.tokens.create(ADMIN, " sensor box ", ["runs:write", "events:write"])
    identity = desk.tokens.check(text.reveal())
    assert (identity.kind, identity.id, identity.name) == ("token", row.id, "sensor box")
    assert allowed(identity, "events:write")
    assert not allowed(identity, "flows:read")
    assert row.address == "0xa"


def test_its_form(desk: Desk) -> None:
    texts = {desk.create() for _ in range(50)}
    assert len(texts) == 50
    assert all(re.fullmatch(r"flw_[0-9a-z]{13}_[0-9a-z]{52}", text) for text in texts)


def test_only_the_hash_is_kept(desk: Desk) -> None:
    text = desk.create()
    _, token_id, secret = text.split("_")
    assert desk.repo.rows[token_id].hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(desk.repo.rows)


def test_a_wrong_secret_and_an_unknown_id_read_the_same(desk: Desk) -> None:
    text = desk.create()
    wrong = [text[:-1] + ("0" if text[-1] != "0" else "1"), "flw_" + "0" * 13 + text[17:]]
    messages = set()
    for attempt in wrong:
        with pytest.raises(Unauthorized) as refusal:
            desk.tokens.check(attempt)
        messages.add(str(refusal.value))
    assert len(messages) == 1


@pytest.mark.parametrize("text", ["", "flw_", "flw__", "rubbish", "\0", "flw_" + "x" * 1_000_000, "é" * 70, "\ud800"])
def test_rubbish(desk: Desk, text: str) -> None:
    desk.create()
    with pytest.raises(Unauthorized, match="copied whole"):
        desk.tokens.check(text)


def test_neither_space_nor_case_is_forgiven(desk: Desk) -> None:
    text = desk.create()
    for attempt in (text + "\n", " " + text, text.upper()):
        with pytest.raises(Unauthorized):
            desk.tokens.check(attempt)


def test_expiry(desk: Desk) -> None:
    text = desk.create(lifetime=60)
    desk.clock.time += 59.9
    desk.tokens.check(text)
    desk.clock.time += 0.1
    with pytest.raises(Unauthorized, match="'sensor' has expired"):
        desk.tokens.check(text)


def test_without_an_end(desk: Desk) -> None:
    text = desk.create()
    desk.clock.time += 100 * 365 * 86400
    desk.tokens.check(text)


def test_revocation(desk: Desk) -> None:
    text = desk.create()
    token_id = text.split("_")[1]
    assert desk.tokens.revoke(ADMIN, token_id)
    assert not desk.tokens.revoke(ADMIN, token_id)
    assert not desk.tokens.revoke(ADMIN, "unknown")
    with pytest.raises(Unauthorized, match="was revoked"):
        desk.tokens.check(text)


def test_revoking_takes_a_right_in_the_tokens_workspace(desk: Desk) -> None:
    token_id = desk.tokens.create(OWNER, "all", ["runs:read"], workspace=EVERYWHERE)[1].id
    with pytest.raises(Forbidden):
        desk.tokens.revoke(ADMIN, token_id)
    assert desk.tokens.revoke(OWNER, token_id)


def test_who_leaves_takes_the_tokens_along(desk: Desk) -> None:
    mine = [desk.create() for _ in range(3)]
    kept = desk.tokens.create(OWNER, "other", ["runs:read"])[0].reveal()
    desk.tokens.revoke(ADMIN, mine[0].split("_")[1])
    assert desk.tokens.revoke_all_of("0xa") == 2
    for text in mine:
        with pytest.raises(Unauthorized):
            desk.tokens.check(text)
    desk.tokens.check(kept)


def test_last_use_is_noted_now_and_then(desk: Desk) -> None:
    text = desk.create()
    for _ in range(1000):
        desk.tokens.check(text)
    assert len(desk.repo.notes) == 1
    desk.clock.time += LAST_USED_EVERY
    desk.tokens.check(text)
    assert len(desk.repo.notes) == 2
    desk.clock.time -= 30 * 86400  # the clock was wrong before: the note must not stay in the future
    desk.tokens.check(text)
    assert desk.repo.notes[-1] == desk.clock()


class TestNobodyGivesMoreThanTheyHave:
    def test_a_runner_makes_none(self, desk: Desk) -> None:
        runner = Identity(kind="user", id="0xb", roles={"default": Role.RUNNER})
        with pytest.raises(Forbidden, match="tokens:write"):
            desk.tokens.create(runner, "x", ["runs:read"])

    def test_not_for_another_workspace(self, desk: Desk) -> None:
        for workspace in ("other", EVERYWHERE):
            with pytest.raises(Forbidden):
                desk.tokens.create(ADMIN, "x", ["runs:read"], workspace=workspace)

    def test_an_admin_gives_no_backups(self, desk: Desk) -> None:
        with pytest.raises(Forbidden, match="backups"):
            desk.tokens.create(ADMIN, "x", ["backups"])
        desk.tokens.create(OWNER, "x", ["backups"], workspace=EVERYWHERE)

    def test_a_token_gives_its_own_scopes_only(self, desk: Desk) -> None:
        parent = desk.tokens.check(desk.create(ADMIN_SCOPE, "runs:read"))
        desk.tokens.create(parent, "child", ["runs:read"])
        with pytest.raises(Forbidden, match="flows:write"):
            desk.tokens.create(parent, "child", ["runs:read", "flows:write"])

    def test_the_box_itself(self, desk: Desk) -> None:
        _, row = desk.tokens.create(local_identity("pi"), "cli", ["admin"], workspace=EVERYWHERE)
        assert row.address == "local:pi"


@pytest.mark.parametrize(
    ("name", "scopes", "lifetime", "reason"),
    [
        ("", ["runs:read"], None, "name"),
        ("  ", ["runs:read"], None, "name"),
        ("x" * 101, ["runs:read"], None, "name"),
        ("x", [], None, "at least one of admin, "),
        ("x", ["runs:fly", "runs:read"], None, "unknown: runs:fly; there are admin, "),
        ("x", ["runs:read"], 0, "lifetime"),
        ("x", ["runs:read"], -5, "lifetime"),
        ("x", ["runs:read"], float("nan"), "lifetime"),
    ],
)
def test_wrong_wishes(desk: Desk, name: str, scopes: list[str], lifetime: float | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        desk.tokens.create(ADMIN, name, scopes, lifetime=lifetime)
    assert not desk.repo.rows
