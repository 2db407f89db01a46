"""The table of permissions, and its enforcement for every kind of caller."""

from __future__ import annotations

from itertools import pairwise

import pytest

from appliance.security.roles import (
    ADMIN_SCOPE,
    ANONYMOUS,
    EVERYWHERE,
    PERMISSIONS,
    SCOPES,
    Forbidden,
    Identity,
    Role,
    Unauthorized,
    allowed,
    grantable_scopes,
    local_identity,
    permissions_of,
    require,
)


def user(role: Role, workspace: str = "default") -> Identity:
    return Identity(kind="user", id="0xa", roles={workspace: role})


def token(*scopes: str, workspace: str = "default") -> Identity:
    return Identity(kind="token", id="t", scopes=frozenset(scopes), workspace=workspace)


def test_roles_are_a_ladder() -> None:
    ladder = [Role.READER, Role.RUNNER, Role.ADMIN, Role.OWNER]
    for height, role in enumerate(ladder):
        assert [role.covers(other) for other in ladder] == [height >= other for other in range(4)]
    for lower, higher in pairwise(ladder):
        assert permissions_of(user(lower, EVERYWHERE)) < permissions_of(user(higher, EVERYWHERE))


def test_the_owner_may_everything() -> None:
    assert permissions_of(user(Role.OWNER, EVERYWHERE), "anywhere") == set(PERMISSIONS)
    assert permissions_of(local_identity("pi"), "anywhere") == set(PERMISSIONS)


def test_nobody_may_anything() -> None:
    assert not permissions_of(ANONYMOUS)
    with pytest.raises(Unauthorized, match="sign in"):
        require(ANONYMOUS, "health:read")


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        (Role.READER, "runs:read", "runs:start"),
        (Role.RUNNER, "runs:control", "flows:write"),
        (Role.ADMIN, "secrets:write", "backups:read"),
        (Role.OWNER, "backups:write", None),
    ],
)
def test_roles(role: Role, may: str, may_not: str | None) -> None:
    require(user(role, EVERYWHERE), may)
    if may_not:
        with pytest.raises(Forbidden, match=f"{may_not} needs the role"):
            require(user(role, EVERYWHERE), may_not)


def test_a_reader_changes_nothing() -> None:
    assert all(name.endswith(":read") for name in permissions_of(user(Role.READER, EVERYWHERE)))


def test_a_role_ends_at_its_workspace() -> None:
    here = user(Role.ADMIN, "garden")
    require(here, "flows:write", "garden")
    with pytest.raises(Forbidden, match="in workspace 'kitchen'"):
        require(here, "flows:read", "kitchen")


def test_the_higher_of_two_roles_counts() -> None:
    both = Identity(kind="user", id="0xa", roles={EVERYWHERE: Role.READER, "garden": Role.ADMIN})
    assert allowed(both, "flows:write", "garden")
    assert not allowed(both, "flows:write", "kitchen")
    other = Identity(kind="user", id="0xa", roles={EVERYWHERE: Role.ADMIN, "garden": Role.READER})
    assert allowed(other, "flows:write", "garden")


@pytest.mark.parametrize("permission", [name for name, rule in PERMISSIONS.items() if rule.engine])
def test_what_concerns_the_engine_needs_a_role_for_all(permission: str) -> None:
    assert not allowed(user(Role.OWNER, "garden"), permission, "garden")
    assert allowed(user(Role.OWNER, EVERYWHERE), permission, "garden")
    scope = PERMISSIONS[permission].scope
    assert not allowed(token(scope, workspace="garden"), permission, "garden")
    assert allowed(token(scope, workspace=EVERYWHERE), permission, "garden")


class TestTokens:
    def test_a_scope_opens_its_permissions_only(self) -> None:
        for scope in SCOPES:
            if scope == ADMIN_SCOPE:
                continue
            expected = {name for name, rule in PERMISSIONS.items() if rule.scope == scope}
            assert permissions_of(token(scope, workspace=EVERYWHERE)) == expected

    def test_a_token_ends_at_its_workspace(self) -> None:
        assert allowed(token("runs:write"), "runs:start", "default")
        with pytest.raises(Forbidden, match="scope runs:write in workspace 'other'"):
            require(token("runs:write"), "runs:start", "other")

    def test_admin_covers_all_but_the_owners(self) -> None:
        of_admin = permissions_of(user(Role.ADMIN, EVERYWHERE))
        assert permissions_of(token(ADMIN_SCOPE, workspace=EVERYWHERE)) == of_admin
        assert not allowed(token(ADMIN_SCOPE, workspace=EVERYWHERE), "backups:read")

    def test_a_token_without_scopes(self) -> None:
        assert not permissions_of(token(workspace=EVERYWHERE))

    def test_roles_do_not_leak_into_a_token(self) -> None:
        odd = Identity(kind="token", id="t", roles={EVERYWHERE: Role.OWNER}, workspace=EVERYWHERE)
        assert not permissions_of(odd)


class TestGrantable:
    def test_no_scope_reaches_further_than_its_giver(self) -> None:
        for role in Role:
            giver = user(role, EVERYWHERE)
            for scope in grantable_scopes(giver, EVERYWHERE):
                assert permissions_of(token(scope, workspace=EVERYWHERE)) <= permissions_of(giver), (role, scope)

    def test_only_owners_give_backups(self) -> None:
        assert "backups" not in grantable_scopes(user(Role.ADMIN, EVERYWHERE), EVERYWHERE)
        assert "backups" in grantable_scopes(user(Role.OWNER, EVERYWHERE), EVERYWHERE)

    def test_a_workspace_ends_here_too(self) -> None:
        assert not grantable_scopes(user(Role.OWNER, "garden"), "kitchen")
        assert not grantable_scopes(user(Role.OWNER, "garden"), EVERYWHERE)
        assert not grantable_scopes(token("flows:read"), EVERYWHERE)
        assert grantable_scopes(token("flows:read"), "default") == {"flows:read"}


def test_an_unknown_permission_is_a_bug_and_not_a_yes() -> None:
    with pytest.raises(KeyError):
        allowed(local_identity("pi"), "flows:destroy")


def test_labels() -> None:
    assert user(Role.ADMIN).label == "user:0xa"
    assert token().label == "token:t"
    assert local_identity("pi").label == "local:pi"
    assert ANONYMOUS.label == "anonymous"
