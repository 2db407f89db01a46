"""People: who an address is, and who may change it."""

from __future__ import annotations

import pytest

from appliance.contracts import ConfigError
from appliance.security.roles import EVERYWHERE, Forbidden, Identity, Role, local_identity
from appliance.security.users import Users
from appliance.security.wallet import BadAddress, checksummed
from tests.security.memory import Clock, MemoryUsers

OWNER, ANNA, BEN = ("0x" + digit * 40 for digit in "0ab")
LOCAL = local_identity("pi")


class Desk:
    def __init__(self) -> None:
        self.owner: str | None = OWNER
        self.repo = MemoryUsers()
        self.users = Users(self.repo, lambda: self.owner, now=Clock())

    def give(self, address: str, role: Role, workspace: str = "default", name: str = "") -> Identity:
        self.users.set_role(LOCAL, address, workspace, role, name)
        return self.who(address.lower())

    def who(self, address: str) -> Identity:
        identity = self.users.identity(address)
        assert identity is not None
        return identity


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_owner_needs_no_entry(desk: Desk) -> None:
    identity = desk.who(OWNER)
    assert identity.roles == {EVERYWHERE: Role.OWNER}
    assert identity.name == "owner"
    assert not desk.repo.rows


def test_a_rotated_owner_key_loses_access_at_once(desk: Desk) -> None:
    desk.owner = ANNA
    assert desk.users.identity(OWNER) is None
    assert not desk.users.known(OWNER)
    assert desk.who(ANNA).roles == {EVERYWHERE: Role.OWNER}
    desk.owner = None
    assert desk.users.identity(ANNA) is None


def test_a_person(desk: Desk) -> None:
    identity = desk.give(checksummed(ANNA), Role.RUNNER, name=" Anna ")
    assert (identity.kind, identity.id, identity.name) == ("user", ANNA, "Anna")
    assert identity.roles == {"default": Role.RUNNER}
    assert desk.users.known(ANNA)
    assert not desk.users.known(BEN)


def test_roles_in_several_workspaces(desk: Desk) -> None:
    desk.give(ANNA, Role.RUNNER, "garden", "Anna")
    identity = desk.give(ANNA, Role.ADMIN, "kitchen")
    assert identity.roles == {"garden": Role.RUNNER, "kitchen": Role.ADMIN}
    assert identity.name == "Anna", "a new role keeps the name"


def test_taking_the_last_role_away_ends_access(desk: Desk) -> None:
    desk.give(ANNA, Role.RUNNER)
    desk.users.set_role(LOCAL, ANNA, "default", None)
    assert desk.users.identity(ANNA) is None


def test_taking_from_a_stranger_makes_no_entry(desk: Desk) -> None:
    desk.users.set_role(LOCAL, ANNA, "default", None)
    assert not desk.repo.rows


def test_a_role_of_a_newer_version_gives_nothing(desk: Desk) -> None:
    desk.give(ANNA, Role.READER)
    desk.repo.roles[ANNA] = {"default": "overlord"}
    assert desk.users.identity(ANNA) is None


class TestLadder:
    def test_an_admin_gives_up_to_admin_here(self, desk: Desk) -> None:
        anna = desk.give(ANNA, Role.ADMIN)
        for role in (Role.READER, Role.RUNNER, Role.ADMIN):
            desk.users.set_role(anna, BEN, "default", role)
        with pytest.raises(Forbidden, match="above your own"):
            desk.users.set_role(anna, BEN, "default", Role.OWNER)
        for workspace in ("garden", EVERYWHERE):
            with pytest.raises(Forbidden, match="users:write"):
                desk.users.set_role(anna, BEN, workspace, Role.READER)

    def test_nobody_touches_who_is_above(self, desk: Desk) -> None:
        anna = desk.give(ANNA, Role.ADMIN)
        desk.give(BEN, Role.OWNER)
        for role in (Role.READER, None):
            with pytest.raises(Forbidden, match="above your own"):
                desk.users.set_role(anna, BEN, "default", role)
        with pytest.raises(Forbidden, match="above your own"):
            desk.users.remove(anna, BEN)

    @pytest.mark.parametrize("role", [Role.RUNNER, Role.READER])
    def test_others_give_nothing(self, desk: Desk, role: Role) -> None:
        anna = desk.give(ANNA, role)
        for address in (ANNA, BEN):
            with pytest.raises(Forbidden, match="users:write"):
                desk.users.set_role(anna, address, "default", Role.READER)

    def test_nobody_touches_the_owner_from_afar(self, desk: Desk) -> None:
        for by in (LOCAL, desk.who(OWNER), desk.give(ANNA, Role.OWNER, EVERYWHERE)):
            with pytest.raises(Forbidden, match="flowork key rotate"):
                desk.users.set_role(by, checksummed(OWNER), "default", Role.READER)
            with pytest.raises(Forbidden, match="flowork key rotate"):
                desk.users.remove(by, OWNER)

    def test_an_admin_token_reaches_admins(self, desk: Desk) -> None:
        token = Identity(kind="token", id="t", scopes=frozenset({"admin"}), workspace="default")
        desk.users.set_role(token, ANNA, "default", Role.ADMIN)
        with pytest.raises(Forbidden, match="above your own"):
            desk.users.set_role(token, ANNA, "default", Role.OWNER)


class TestRemoval:
    def test_everything_goes(self, desk: Desk) -> None:
        desk.give(ANNA, Role.RUNNER)
        assert desk.users.remove(LOCAL, ANNA)
        assert desk.users.identity(ANNA) is None
        assert not desk.users.remove(LOCAL, ANNA)

    def test_it_takes_a_right_in_every_workspace(self, desk: Desk) -> None:
        anna = desk.give(ANNA, Role.ADMIN)
        desk.give(BEN, Role.READER)
        desk.give(BEN, Role.READER, "garden")
        with pytest.raises(Forbidden, match="garden"):
            desk.users.remove(anna, BEN)
        assert desk.who(BEN).roles == {"default": Role.READER, "garden": Role.READER}

    def test_strangers_learn_nothing(self, desk: Desk) -> None:
        anna = desk.give(ANNA, Role.ADMIN)
        with pytest.raises(Forbidden):
            desk.users.remove(anna, BEN)


def test_wrong_wishes(desk: Desk) -> None:
    with pytest.raises(BadAddress):
        desk.users.set_role(LOCAL, "anna", "default", Role.READER)
    with pytest.raises(ConfigError, match="workspace"):
        desk.users.set_role(LOCAL, ANNA, " ", Role.READER)
    with pytest.raises(ConfigError, match="name"):
        desk.users.set_role(LOCAL, ANNA, "default", Role.READER, "x" * 101)
    assert not desk.repo.rows
