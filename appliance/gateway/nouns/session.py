"""Sessions: signing in by signing a challenge with a private key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from flask import request
from msgspec import Meta, Struct
from werkzeug.http import dump_cookie

from appliance.gateway.common import Body, Query
from appliance.gateway.identity import cookie_for, remote_of
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.services import HOUR
from appliance.gateway.version import VERSION
from appliance.security.origins import origin_allowed
from appliance.security.roles import DEFAULT_WORKSPACE, EVERYWHERE, Forbidden, Identity, permissions_of
from appliance.security.sessions import cookie_options

noun = Noun(
    "session",
    "Ask for a challenge, sign it (EIP-191 `personal_sign`, as wallets do), send the signature: that is all.",
)
_SIGN_IN = "it is how one signs in"


class ForAddress(Query, frozen=True):
    """Whose challenge."""

    address: Annotated[str, Meta(pattern="^0x[0-9a-fA-F]{40}$", description="The address of your key")]
    chain_id: Annotated[int, Meta(ge=1, le=2**53, description="1, unless your wallet insists on another")] = 1


class ChallengeView(Struct, frozen=True):
    """The text to sign, byte for byte, and until when that counts."""

    text: str
    expires: float


class Signed(Body, frozen=True):
    """A signed challenge."""

    text: Annotated[str, Meta(max_length=4096, description="The challenge, unchanged")]
    signature: Annotated[str, Meta(max_length=200, description="0x and 130 hex digits")]


class EngineView(Struct, frozen=True):
    """Which engine this is."""

    id: str
    version: str


class SessionView(Struct, frozen=True, kw_only=True):
    """Who is calling, and what they may do.

    ``roles`` by workspace (``*``: all) for a person; ``permissions`` by workspace for everybody, ``*`` standing for
    what concerns all of them.
    """

    signed_in: bool
    kind: str
    id: str
    name: str
    roles: Mapping[str, str]
    scopes: Sequence[str]
    permissions: Mapping[str, Sequence[str]]
    engine: EngineView
    expires: float | None = None


@noun.get("/session/challenge", public=_SIGN_IN)
def challenge(call: Call[ForAddress, Nothing]) -> ChallengeView:
    """A text to sign with the key of an address. Any address gets one: it does not tell who is known here."""
    call.gateway.callers.require_host(call.request)
    host = call.request.get("host", "")
    made = call.gateway.sign_in.challenge(
        call.query.address, domain=host, uri=f"{request.scheme}://{host}/", chain_id=call.query.chain_id
    )
    return ChallengeView(made.text, made.expires)


@noun.post("/session", public=_SIGN_IN, errors=(401, 403), unaudited="writes its own entry, also of a refusal")
def sign_in(call: Call[Nothing, Signed]) -> SessionView:
    """Sign in with a signed challenge; the answer sets the session's cookie."""
    gateway = call.gateway
    gateway.callers.take_sign_in(remote_of(request.environ))
    gateway.callers.require_host(call.request)
    if "origin" in call.request and not origin_allowed("POST", call.request):
        raise Forbidden("sign in on this box's own page; a page elsewhere uses an engine token")
    address = gateway.sign_in.verify(
        call.body.text, call.body.signature, domain=call.request.get("host", ""), known=gateway.users.known
    )
    identity = gateway.users.identity(address)
    if identity is None:
        raise Forbidden("this key has no access to this box any more; ask its owner")
    token, expires = gateway.sessions.start(address)
    gateway.write_audit(identity, "session.start", address, "", {"from": remote_of(request.environ)})
    life = gateway.settings.session_hours * HOUR
    call.headers["Set-Cookie"] = _cookie(cookie_for(gateway.cookie, request.environ), token.reveal(), life)
    return _view(call, identity, expires)


@noun.get("/session", public="it tells whether one is signed in")
def show(call: Call[Nothing, Nothing]) -> SessionView:
    """Who is calling, and what they may do."""
    return _view(call, call.identity, None)


@noun.delete("/session", public="it ends the caller's own session", unaudited="ends nothing but the caller's session")
def sign_out(call: Call[Nothing, Nothing]) -> None:
    """Sign out. Without a session nothing happens."""
    name = cookie_for(call.gateway.cookie, request.environ)
    value = request.cookies.get(name, "")
    if value and call.identity.kind == "user":
        call.gateway.sessions.end(value)
    call.headers["Set-Cookie"] = _cookie(name, "", 0)


def _cookie(name: str, value: str, life: float) -> str:
    options = cookie_options(request.is_secure, life)
    return dump_cookie(
        name,
        value,
        max_age=int(life),
        path="/",
        secure=bool(options["secure"]),
        httponly=True,
        samesite=str(options["samesite"]),
    )


def _view(
    call: Call[Nothing, Nothing] | Call[Nothing, Signed], identity: Identity, expires: float | None
) -> SessionView:
    places = [identity.workspace] if identity.kind == "token" else list(identity.roles)
    permissions = {place: sorted(_permissions(identity, place)) for place in places}
    return SessionView(
        signed_in=identity.kind != "anonymous",
        kind=identity.kind,
        id=identity.id,
        name=identity.name,
        roles={place: role.value for place, role in identity.roles.items()},
        scopes=sorted(identity.scopes),
        permissions=permissions,
        engine=EngineView(call.gateway.engine.id, VERSION),
        expires=expires,
    )


def _permissions(identity: Identity, place: str) -> frozenset[str]:
    return permissions_of(identity, DEFAULT_WORKSPACE if place == EVERYWHERE else place)
