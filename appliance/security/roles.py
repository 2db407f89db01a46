"""Who may do what: roles, scopes, the one table of permissions, and the one place that enforces it.

A person has a role in a workspace (or in all of them, ``*``); a machine's token has scopes in one workspace
(or in all). Every permission names the least role and the one scope that allow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from appliance.contracts import FlowError

#: Stands for every workspace, and for what belongs to the engine rather than to any workspace.
EVERYWHERE = "*"
#: The workspace that every engine has.
DEFAULT_WORKSPACE = "default"


class Unauthorized(FlowError):
    """Nobody is signed in, or what was shown proves nothing (HTTP 401)."""

    id = "unauthorized"
    retryable = False


class Forbidden(FlowError):
    """The caller is known, and may not do this (HTTP 403)."""

    id = "forbidden"
    retryable = False


class Role(StrEnum):
    """What a person may do in a workspace; each role may do all that the ones after it may."""

    OWNER = "owner"
    ADMIN = "admin"
    RUNNER = "runner"
    READER = "reader"

    def covers(self, other: Role) -> bool:
        """This role may do what ``other`` may."""
        return _RANK[self] >= _RANK[other]


_RANK = {Role.READER: 0, Role.RUNNER: 1, Role.ADMIN: 2, Role.OWNER: 3}


class Rule(Struct, frozen=True):
    """The least role and the scope for a permission.

    With ``engine`` it concerns the whole box: the role or the token must be for all workspaces.
    """

    role: Role
    scope: str
    engine: bool = False


#: A token with this scope may do all that an admin may.
ADMIN_SCOPE = "admin"

PERMISSIONS: Mapping[str, Rule] = {
    "flows:read": Rule(Role.READER, "flows:read"),
    "flows:write": Rule(Role.ADMIN, "flows:write"),
    "flows:deploy": Rule(Role.ADMIN, "flows:write"),
    "flows:delete": Rule(Role.ADMIN, "flows:write"),
    "catalog:read": Rule(Role.READER, "flows:read"),
    "triggers:read": Rule(Role.READER, "flows:read"),
    "triggers:test": Rule(Role.RUNNER, "runs:write"),
    "runs:read": Rule(Role.READER, "runs:read"),
    "runs:start": Rule(Role.RUNNER, "runs:write"),
    "runs:control": Rule(Role.RUNNER, "runs:write"),
    "runs:delete": Rule(Role.ADMIN, "runs:write"),
    "dead_letters:read": Rule(Role.READER, "runs:read"),
    "dead_letters:write": Rule(Role.RUNNER, "runs:write"),
    "approvals:answer": Rule(Role.RUNNER, "runs:write"),
    "events:write": Rule(Role.RUNNER, "events:write"),
    "chats:read": Rule(Role.READER, "runs:read"),
    # A chat's trigger says which role it takes beyond this.
    "chats:send": Rule(Role.RUNNER, "runs:write"),
    "memory:read": Rule(Role.READER, "runs:read"),
    "memory:write": Rule(Role.ADMIN, "runs:write"),
    "variables:read": Rule(Role.READER, "variables:read"),
    "variables:write": Rule(Role.ADMIN, "variables:write"),
    "secrets:list": Rule(Role.ADMIN, "secrets:write"),
    "secrets:write": Rule(Role.ADMIN, "secrets:write"),
    "devices:read": Rule(Role.READER, "devices"),
    "devices:command": Rule(Role.RUNNER, "devices"),
    "devices:manage": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    "peers:read": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    "peers:manage": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    "models:read": Rule(Role.READER, "flows:read"),
    "models:manage": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    # Asking costs the box's time, and perhaps money.
    "models:use": Rule(Role.RUNNER, "models"),
    "users:read": Rule(Role.ADMIN, ADMIN_SCOPE),
    "users:write": Rule(Role.ADMIN, ADMIN_SCOPE),
    "tokens:read": Rule(Role.ADMIN, ADMIN_SCOPE),
    "tokens:write": Rule(Role.ADMIN, ADMIN_SCOPE),
    "audit:read": Rule(Role.ADMIN, "audit:read", engine=True),
    "health:read": Rule(Role.READER, "health:read"),
    "metrics:read": Rule(Role.READER, "metrics:read"),
    "settings:read": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    "settings:write": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    "engine:control": Rule(Role.ADMIN, ADMIN_SCOPE, engine=True),
    # A backup holds the keys folder, and with it the whole engine.
    "backups:read": Rule(Role.OWNER, "backups", engine=True),
    "backups:write": Rule(Role.OWNER, "backups", engine=True),
}

#: All scopes that a token can be given.
SCOPES: tuple[str, ...] = tuple(sorted({rule.scope for rule in PERMISSIONS.values()}))


class Identity(Struct, frozen=True, kw_only=True):
    """Who is calling.

    ``kind`` is ``user`` (``id``: address), ``token`` (``id``: token id), ``local`` (a person with a shell on
    the box, ``id``: login name) or ``anonymous``. ``roles`` maps a workspace (or ``*``) to a role. A token has
    no roles: it has ``scopes`` in ``workspace``.
    """

    kind: str
    id: str = ""
    name: str = ""
    roles: Mapping[str, Role] = {}
    scopes: frozenset[str] = frozenset()
    workspace: str = ""

    @property
    def label(self) -> str:
        """How the audit log and versions name the caller: ``user:0x…``, ``token:k3…``, ``local:pi``."""
        return f"{self.kind}:{self.id}" if self.id else self.kind

    def role_in(self, workspace: str) -> Role | None:
        """The caller's role in a workspace: the higher of the one given there and the one for all."""
        here, all_over = self.roles.get(workspace), self.roles.get(EVERYWHERE)
        if here is None or all_over is None:
            return here or all_over
        return here if here.covers(all_over) else all_over


ANONYMOUS = Identity(kind="anonymous")


def local_identity(login: str) -> Identity:
    """A person at the box itself, who can read its files anyhow: may do everything."""
    return Identity(kind="local", id=login, roles={EVERYWHERE: Role.OWNER})


def allowed(identity: Identity, permission: str, workspace: str = DEFAULT_WORKSPACE) -> bool:
    """Whether ``identity`` has ``permission`` in ``workspace`` (of no meaning for what concerns the engine).

    Raises ``KeyError`` for a permission that is not in the table.
    """
    rule = PERMISSIONS[permission]
    place = EVERYWHERE if rule.engine else workspace
    if identity.kind == "token":
        return identity.workspace in (place, EVERYWHERE) and _scoped(identity.scopes, rule)
    role = identity.role_in(place)
    return role is not None and role.covers(rule.role)


def require(identity: Identity, permission: str, workspace: str = DEFAULT_WORKSPACE) -> None:
    """Return if :func:`allowed`; else raise ``Unauthorized`` for nobody, ``Forbidden`` for somebody."""
    if allowed(identity, permission, workspace):
        return
    if identity.kind == "anonymous":
        raise Unauthorized("sign in first, or send an engine token: Authorization: Bearer flw_…")
    rule = PERMISSIONS[permission]
    where = "for all workspaces" if rule.engine else f"in workspace {workspace!r}"
    if identity.kind == "token":
        raise Forbidden(f"this token may not do that: {permission} needs the scope {rule.scope} {where}")
    raise Forbidden(f"you may not do that: {permission} needs the role {rule.role} {where}")


def permissions_of(identity: Identity, workspace: str = DEFAULT_WORKSPACE) -> frozenset[str]:
    """All that the caller may do in a workspace, so that the panel offers nothing else."""
    return frozenset(name for name in PERMISSIONS if allowed(identity, name, workspace))


def grantable_scopes(identity: Identity, workspace: str) -> frozenset[str]:
    """The scopes that the caller may put into a token for ``workspace``: none that reaches further than they do."""
    if identity.kind == "token":
        within = identity.workspace in (workspace, EVERYWHERE)
        return identity.scopes if within else frozenset()
    role = identity.role_in(workspace)
    if role is None:
        return frozenset()
    return frozenset(scope for scope in SCOPES if role.covers(_role_of(scope)))


def _scoped(scopes: frozenset[str], rule: Rule) -> bool:
    return rule.scope in scopes or (ADMIN_SCOPE in scopes and Role.ADMIN.covers(rule.role))


def _role_of(scope: str) -> Role:
    """The least role that may do all that the scope allows."""
    roles = [rule.role for rule in PERMISSIONS.values() if rule.scope == scope]
    return max(roles, key=_RANK.__getitem__)
