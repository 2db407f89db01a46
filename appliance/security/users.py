"""People with access: an address, a name, and a role per workspace. The owner's address needs no entry.

Who may give what: nobody can hand out, take away or touch a role above their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from appliance.contracts import ConfigError
from appliance.security.roles import EVERYWHERE, Forbidden, Identity, Role, require
from appliance.security.wallet import parse_address

_LONGEST_NAME = 100
_ROLES = frozenset(role.value for role in Role)


class User(Protocol):
    """One row: address in lower case, name, Unix seconds."""

    @property
    def address(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def created(self) -> float: ...


class UserRepo(Protocol):
    """Where people and their roles are kept."""

    def get(self, address: str) -> User | None: ...

    def grants(self, address: str) -> Mapping[str, str]:
        """Workspace (or ``*``) → role."""

    def put(self, address: str, name: str, created: float) -> None:
        """Add a user, or give one another name (then ``created`` is kept as it was)."""

    def grant(self, address: str, workspace: str, role: str | None) -> None:
        """Set the role of a user, or take it away with None."""

    def remove(self, address: str) -> bool:
        """Remove a user with all roles."""


class Users:
    """Answers who an address is, and changes it. ``owner``: the owner's address as it is now."""

    def __init__(
        self, repo: UserRepo, owner: Callable[[], str | None], *, now: Callable[[], float] = time.time
    ) -> None:
        self._repo = repo
        self._owner = owner
        self._now = now

    def identity(self, address: str) -> Identity | None:
        """Who ``address`` (lower case) is, or None if it has no access (any more)."""
        user = self._repo.get(address)
        name = user.name if user else ""
        if address == self._owner():
            return Identity(kind="user", id=address, name=name or "owner", roles={EVERYWHERE: Role.OWNER})
        roles = _known_roles(self._repo.grants(address)) if user else {}
        return Identity(kind="user", id=address, name=name, roles=roles) if roles else None

    def known(self, address: str) -> bool:
        """The address has access to something."""
        return self.identity(address) is not None

    def set_role(self, by: Identity, address: str, workspace: str, role: Role | None, name: str = "") -> str:
        """Give a person (who need not be known yet) a role in ``workspace``, or take it away with None.

        Returns the address in lower case. Raises ``Forbidden``, ``BadAddress``, ``ConfigError``.
        """
        require(by, "users:write", workspace)
        who = self._touchable(by, address, workspace)
        if role is not None and not self.may_give(by, workspace, role):
            raise Forbidden(f"you cannot give the role {role}: it is above your own")
        if not workspace.strip():
            raise ConfigError("workspace: must have a name, or * for all")
        if len(name) > _LONGEST_NAME:
            raise ConfigError(f"name: must have at most {_LONGEST_NAME} characters")
        user = self._repo.get(who)
        if role is None and user is None:
            return who
        self._repo.put(who, name.strip() or (user.name if user else ""), self._now())
        self._repo.grant(who, workspace, role)
        return who

    def remove(self, by: Identity, address: str) -> bool:
        """Remove a person from every workspace; False if unknown. Sessions and tokens are the caller's to end.

        Needs ``users:write`` in every workspace where the person has a role.
        """
        who = parse_address(address)
        for workspace in self._repo.grants(who) or {EVERYWHERE: ""}:
            require(by, "users:write", workspace)
            self._touchable(by, who, workspace)
        return self._repo.remove(who)

    def may_give(self, by: Identity, workspace: str, role: Role) -> bool:
        """Whether ``by``, who may change people here, can give this role."""
        return self._reach(by, workspace).covers(role)

    def _touchable(self, by: Identity, address: str, workspace: str) -> str:
        who = parse_address(address)
        if who == self._owner():
            raise Forbidden("the owner's key is changed on the box itself: flowork key rotate")
        current = _known_roles(self._repo.grants(who)).get(workspace)
        if current is not None and not self._reach(by, workspace).covers(current):
            raise Forbidden(f"you cannot change who has the role {current}: it is above your own")
        return who

    def _reach(self, by: Identity, workspace: str) -> Role:
        """How high a role ``by`` may touch. A token has the scope ``admin`` here, else it were refused before."""
        return by.role_in(workspace) or Role.ADMIN


def _known_roles(grants: Mapping[str, str]) -> dict[str, Role]:
    """Roles that this version knows; one that a newer version wrote gives nothing."""
    return {place: Role(role) for place, role in grants.items() if role in _ROLES}
