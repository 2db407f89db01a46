"""Engine tokens: how machines sign in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.gateway.common import Body, InWorkspace
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.roles import EVERYWHERE, SCOPES
from appliance.store.people import TokenRow
from appliance.store.records import Page

noun = Noun("tokens", f"Tokens for machines: `Authorization: Bearer flw_…`. Their scopes: {', '.join(SCOPES)}.")


class TokenView(Struct, frozen=True, kw_only=True):
    """A token without its secret; ``made_by`` is who made it."""

    id: str
    name: str
    workspace: str
    scopes: Sequence[str]
    made_by: str
    created: float
    expires: float | None
    last_used: float | None
    revoked: float | None


class NewToken(Body, frozen=True):
    """What the token may do, and for how long."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="Tells tokens apart")]
    scopes: Annotated[list[str], Meta(min_length=1, max_length=50, description="What it may do")]
    lifetime: Annotated[
        Annotated[float, Meta(gt=0, le=3.2e9)] | None, Meta(description="Seconds; without an end if left out")
    ] = None


class MadeToken(TokenView, frozen=True, kw_only=True):
    """The new token; ``token`` is shown this once."""

    token: str


@noun.get("/tokens", permission="tokens:read")
def list_tokens(call: Call[InWorkspace, Nothing]) -> Page[TokenView]:
    """The tokens of a workspace, newest first; revoked ones too."""
    workspace = None if call.workspace == EVERYWHERE else call.workspace
    return Page([TokenView(**_fields(row)) for row in call.gateway.store.people.tokens.list(workspace)])


@noun.post("/tokens", permission="tokens:write", status=201, audit="token.create", atomic=True, once=True)
def create(call: Call[InWorkspace, NewToken]) -> MadeToken:
    """Make a token. Nobody can make one that may do more than they may; its text is shown this once."""
    body = call.body
    secret, row = call.gateway.tokens.create(
        call.identity, body.name, body.scopes, workspace=call.workspace, lifetime=body.lifetime
    )
    call.note(row.id, name=row.name, scopes=list(row.scopes), expires=row.expires)
    return MadeToken(**_fields(row), token=secret.reveal())


@noun.delete("/tokens/{token}", permission="tokens:write", audit="token.revoke", atomic=True)
def revoke(call: Call[Nothing, Nothing], token: TokenRow) -> None:
    """End a token now. Doing so twice is fine."""
    call.note(token.id, name=token.name)
    call.gateway.tokens.revoke(call.identity, token.id)


def _fields(row: Any) -> dict[str, Any]:
    names = ("id", "name", "workspace", "scopes", "created", "expires", "last_used", "revoked")
    return {**{name: getattr(row, name) for name in names}, "made_by": row.address}
