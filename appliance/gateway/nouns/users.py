"""Users: people by their address, and their role in each workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from appliance.gateway.common import Body, InWorkspace
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.roles import EVERYWHERE, Role
from appliance.store.errors import NotFound
from appliance.store.records import Page

noun = Noun("users", "People sign in with the key of their address. A role holds in one workspace, or in all (`*`).")

Address = Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{40}$", description="0x and 40 hex digits")]


class UserView(Struct, frozen=True, kw_only=True):
    """A person; ``roles`` by workspace (``*``: all). The owner is always there."""

    address: str
    name: str
    created: float | None
    roles: Mapping[str, str]


class UserRole(Body, frozen=True):
    """A person's role in the workspace; null takes it away."""

    role: Literal["owner", "admin", "runner", "reader"] | None
    name: Annotated[str, Meta(max_length=100, description="What to call the person; empty: as before")] = ""


@noun.get("/users", permission="users:read")
def list_users(call: Call[InWorkspace, Nothing]) -> Page[UserView]:
    """Who has a role in the workspace."""
    owner = call.gateway.owner()
    found = [
        UserView(address=user.address, name=user.name, created=user.created, roles=dict(user.roles))
        for user in call.gateway.store.people.users.list()
        if user.address != owner and (call.workspace == EVERYWHERE or {call.workspace, EVERYWHERE} & user.roles.keys())
    ]
    if owner is not None:
        known = call.gateway.store.people.users.get(owner)
        name = known.name if known is not None and known.name else "owner"
        found.insert(0, UserView(address=owner, name=name, created=None, roles={EVERYWHERE: Role.OWNER.value}))
    return Page(found)


@noun.put("/users/{address}", permission="users:write", audit="user.role", atomic=True)
def save(call: Call[InWorkspace, UserRole], address: Address) -> UserView:
    """Give a person, who need not be known yet, a role in the workspace. Nobody gives more than they have."""
    role = None if call.body.role is None else Role(call.body.role)
    users, people = call.gateway.users, call.gateway.store.people.users
    call.note(address.lower(), role=call.body.role, name=call.body.name)
    who = users.set_role(call.identity, address, call.workspace, role, call.body.name)
    user = people.get(who)
    name, created = (user.name, user.created) if user is not None else ("", None)
    return UserView(address=who, name=name, created=created, roles=people.grants(who))


@noun.delete("/users/{address}", permission="users:write", errors=(404,), audit="user.remove", atomic=True)
def remove(call: Call[InWorkspace, Nothing], address: Address) -> None:
    """Remove a person from every workspace, and end their sessions and the tokens they made."""
    who = address.lower()
    call.note(who)
    if not call.gateway.users.remove(call.identity, address):
        raise NotFound(f"there is no user {who}")
    sessions = call.gateway.sessions.end_all(who)
    tokens = call.gateway.tokens.revoke_all_of(who)
    call.note(who, sessions=sessions, revoked=tokens)
