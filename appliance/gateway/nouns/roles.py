"""Roles of people and scopes of tokens: what each may do, and who may give it to somebody."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from appliance.gateway.common import InWorkspace
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.roles import PERMISSIONS, SCOPES, Role, grantable_scopes
from appliance.store.records import Page

noun = Noun("roles", "What roles and scopes may do. A person has a role in a workspace, a token has scopes in one.")


class RoleView(Struct, frozen=True):
    """A role: what it may do in a workspace, and ``engine`` what it may do besides if it holds in all of them.

    ``grantable`` says whether the caller may give it to somebody in this workspace.
    """

    role: str
    permissions: list[str]
    engine: list[str]
    grantable: bool


class ScopeView(Struct, frozen=True):
    """A scope: what a token with it may do, and ``engine`` what it may do besides if it is for all workspaces.

    ``grantable`` says whether the caller may put it into a token for this workspace.
    """

    scope: str
    permissions: list[str]
    engine: list[str]
    grantable: bool


@noun.get("/roles", permission="users:read")
def list_roles(call: Call[InWorkspace, Nothing]) -> Page[RoleView]:
    """The roles, highest first."""
    users = call.gateway.users
    found = []
    for role in Role:
        local, engine = _split(name for name, rule in PERMISSIONS.items() if role.covers(rule.role))
        found.append(RoleView(role.value, local, engine, users.may_give(call.identity, call.workspace, role)))
    return Page(found)


@noun.get("/scopes", permission="tokens:read")
def list_scopes(call: Call[InWorkspace, Nothing]) -> Page[ScopeView]:
    """The scopes by name. `admin` covers besides what all the others do, except `backups`."""
    grantable = grantable_scopes(call.identity, call.workspace)
    found = []
    for scope in SCOPES:
        local, engine = _split(name for name, rule in PERMISSIONS.items() if rule.scope == scope)
        found.append(ScopeView(scope, local, engine, scope in grantable))
    return Page(found)


def _split(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Permissions in a workspace, and those that concern the engine."""
    found: tuple[list[str], list[str]] = ([], [])
    for name in names:
        found[PERMISSIONS[name].engine].append(name)
    return found
