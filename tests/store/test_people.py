"""Users, tokens, sessions, nonces and sealed secrets, as the security package uses them; the audit log."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from appliance.contracts import Busy
from appliance.security import audit as audit_log
from appliance.security import sessions, tokens, users, vault
from appliance.security.keys import init_keys
from appliance.security.nonces import NonceRepo
from appliance.security.roles import EVERYWHERE, Identity, Role, Unauthorized
from appliance.security.secret import Secret
from appliance.store.errors import NotFound, StoreError
from appliance.store.metadata import Store, open_store
from appliance.store.people import Nonces
from appliance.store.tables import AUDIT
from tests.store.stores import Clock, here, open_database

ANN = "0x" + "a1" * 20
BOB = "0x" + "b2" * 20
OWNER = Identity(kind="user", id="0x" + "00" * 20, roles={EVERYWHERE: Role.OWNER})


def test_users_and_their_roles(store: Store, clock: Clock) -> None:
    people = users.Users(store.people.users, lambda: None, now=clock)
    people.set_role(OWNER, ANN, "home", Role.ADMIN, name="Ann")
    people.set_role(OWNER, ANN, EVERYWHERE, Role.READER)
    people.set_role(OWNER, BOB, "home", Role.RUNNER, name="Bob")
    identity = people.identity(ANN)
    assert identity is not None
    assert identity.roles == {"home": Role.ADMIN, EVERYWHERE: Role.READER}
    assert identity.name == "Ann"
    assert [(user.name, user.roles) for user in store.people.users.list()] == [
        ("Ann", {"home": "admin", EVERYWHERE: "reader"}),
        ("Bob", {"home": "runner"}),
    ]
    created = clock.time
    clock.time += 9
    people.set_role(OWNER, ANN, "home", None, name="Ann B")
    known = store.people.users.get(ANN)
    assert known is not None
    assert (known.name, known.created) == ("Ann B", created)
    before = store.people.change_counter()
    assert people.remove(OWNER, ANN) is True
    assert people.remove(OWNER, ANN) is False
    assert people.identity(ANN) is None
    assert store.people.users.grants(ANN) == {}
    assert store.people.change_counter() > before


def test_a_role_for_nobody_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        store.people.users.grant(ANN, "home", "admin")


def test_tokens(store: Store, data: Path, clock: Clock) -> None:
    machines = tokens.Tokens(store.people.tokens, now=clock)
    text, row = machines.create(OWNER, "sensor", ["events:write"], workspace="home", lifetime=3600)
    assert machines.check(text.reveal()).scopes == {"events:write"}
    kept = store.people.tokens.get(row.id)
    assert kept is not None
    assert kept.scopes == ("events:write",)
    assert kept.last_used == clock.time
    assert text.reveal() not in kept.hash
    _, other = machines.create(OWNER, "other", ["runs:read"], workspace="work")
    assert [token.name for token in store.people.tokens.list("home")] == ["sensor"]
    assert {token.id for token in store.people.tokens.of(OWNER.id)} == {row.id, other.id}
    assert machines.revoke(OWNER, row.id) is True
    assert machines.revoke(OWNER, row.id) is False
    with pytest.raises(Unauthorized, match="revoked"):
        machines.check(text.reveal())
    assert machines.revoke_all_of(OWNER.id) == 1


def test_sessions(store: Store, clock: Clock) -> None:
    panel = sessions.Sessions(store.people.sessions, now=clock, idle=100, longest=150)
    cookie, expires = panel.start(ANN)
    assert expires == clock.time + 100
    clock.time += 60
    assert panel.check(cookie.reveal()) == ANN
    clock.time += 60
    assert panel.check(cookie.reveal()) == ANN  # it was extended, though not beyond `longest`
    clock.time += 40
    with pytest.raises(Unauthorized):
        panel.check(cookie.reveal())
    panel.start(ANN)
    panel.start(BOB)
    assert store.people.sessions.delete_expired(clock.time) == 0  # start() has cleaned up already
    assert panel.end_all(ANN) == 1
    third, _ = panel.start(ANN)
    assert panel.end(third.reveal()) is True
    assert panel.end(third.reveal()) is False


def test_a_nonce_counts_once_in_all_processes_and_after_a_restart(store: Store, data: Path, clock: Clock) -> None:
    repo: NonceRepo = store.people.nonces
    assert repo.use("n", clock.time, clock.time + 60) is True
    other = open_store(data, environ=here(), now=clock)
    assert other.people.nonces.use("n", clock.time, clock.time + 60) is False
    won: list[bool] = []
    stores = [store, other] * 4
    threads = [
        threading.Thread(target=lambda s=s: won.append(s.people.nonces.use("race", 0, clock.time + 60))) for s in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    other.close()


def test_a_clock_that_is_set_back_does_not_revive_a_nonce(store: Store, clock: Clock) -> None:
    nonces = store.people.nonces
    assert nonces.use("old", clock.time, clock.time + 10) is True
    clock.time += 100
    assert nonces.use("new", clock.time, clock.time + 10) is True  # forgets the old one
    clock.time -= 100
    assert nonces.use("old", clock.time, clock.time + 10) is False


def test_nonces_are_bounded(store: Store, data: Path, clock: Clock) -> None:
    db = open_database(data)
    few = Nonces(db, clock, capacity=2)
    assert few.use("a", clock.time, clock.time + 5)
    assert few.use("b", clock.time, clock.time + 9)
    with pytest.raises(Busy):
        few.use("c", clock.time, clock.time + 9)
    clock.time += 6
    assert few.use("c", clock.time, clock.time + 9)
    db.close()


def test_secrets_are_kept_sealed_and_can_be_sealed_anew(store: Store, data: Path) -> None:
    init_keys(data)
    secrets = vault.Secrets(store.values.secrets, data)
    before = store.values.change_counter()
    secrets.put("home", "mail_password", Secret("correct horse battery"))
    secrets.put("work", "mail_password", Secret("staple staple staple"))
    assert store.values.change_counter() == before + 2
    assert secrets.names("home") == ["mail_password"]
    assert secrets.use("home", "mail_password").reveal() == "correct horse battery"
    assert not [row for row in store.values.secrets.all() if b"correct horse" in row.sealed]
    assert secrets.rotate() == (2, ())
    assert secrets.open_all().values["work"]["mail_password"].reveal() == "staple staple staple"
    assert store.values.secrets.replace("home", "mail_password", b"not this", b"x") is False
    assert secrets.delete("home", "mail_password") is True
    assert secrets.delete("home", "mail_password") is False


def test_the_audit_log_is_a_whole_chain_also_when_two_write(store: Store, data: Path) -> None:
    init_keys(data)
    other = open_store(data, environ=here())
    logs = [audit_log.AuditLog(store.audit, data), audit_log.AuditLog(other.audit, data)]

    def write(log: audit_log.AuditLog) -> None:
        for number in range(10):
            log.append("user:ann", "flow.deploy", f"f{number}", workspace="home")

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = logs[0].verify()
    assert (result.ok, result.count) == (True, 20)
    assert [entry.seq for entry in store.audit.page(before=20, limit=3)] == [19, 18, 17]
    assert len(store.audit.page(limit=100, action="flow", actor="user:ann", workspace="home")) == 20
    assert store.audit.page(action="flo") == []
    assert store.audit.page(workspace="work") == []
    third = store.audit.get(3)
    assert third is not None
    assert third.seq == 3
    assert store.audit.get(21) is None
    other.close()


def test_an_audit_entry_can_be_neither_changed_nor_removed(store: Store, data: Path) -> None:
    init_keys(data)
    audit_log.AuditLog(store.audit, data).append("user:ann", "flow.deploy")
    db = open_database(data)
    for query in (AUDIT.update(actor="x"), AUDIT.delete()):
        with pytest.raises(StoreError, match="never"), db.write():
            db.run(query)
    db.close()
    assert [entry.actor for entry in store.audit.entries()] == ["user:ann"]
