"""Peers: other engines on the network, how they are paired with this one, and what they may do here."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, convert, to_builtins

from appliance.contracts import PeerRoles, PeerState
from appliance.gateway.common import Body, Query
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.errors import NotFound
from appliance.store.records import Page

noun = Noun(
    "peers",
    "Other engines: found on the network, or paired with this one by a code that one shows and the other takes. What a "
    "peer may do here is said here; what this engine may do there is said there. `url` is where its own panel is.",
)

_NAME = "^[a-z0-9][a-z0-9_-]{0,39}$"
PeerName = Annotated[str, Meta(pattern=_NAME, description="A peer's name here, or its id")]
PairingName = Annotated[
    str, Meta(pattern=f"^-$|{_NAME}", description="The name that was given with the code; `-` if there was none")
]
NewName = Annotated[str, Meta(pattern=_NAME, description="What it is called here")]


class NewPeerPairing(Body, frozen=True):
    """Who is to come in, and what it may do. Without a name it is called as it calls itself."""

    name: Annotated[str, Meta(pattern=f"^$|{_NAME}")] = ""
    minutes: Annotated[float, Meta(ge=1, le=1440, description="For how long the code is good")] = 10.0
    roles: PeerRoles | None = None


class OpenPairing(Struct, frozen=True, kw_only=True):
    """A code that is still good, until ``expires`` (Unix seconds). Without a name it is for whoever has the code."""

    name: str
    expires: float
    roles: PeerRoles


class MadePeerPairing(OpenPairing, frozen=True, kw_only=True):
    """The code, shown this once, and the port at which engines are let in."""

    code: str
    port: int


class Joining(Body, frozen=True):
    """The code that another engine shows; without an address, whichever is found and has it."""

    code: Annotated[str, Meta(min_length=7, max_length=20, description="As 3-482-913")]
    address: Annotated[str, Meta(max_length=300, description="host, host:port or [::1]:port")] = ""
    name: Annotated[str, Meta(pattern=f"^$|{_NAME}")] = ""
    roles: PeerRoles | None = None


class PeerChange(Body, frozen=True):
    """What is to be otherwise; what is left out stays. ``moved``: it is let in from the hardware that it is on now."""

    name: NewName | None = None
    roles: PeerRoles | None = None
    moved: bool = False


@noun.get("/peers", permission="peers:read", errors=(503,))
def list_peers(call: Call[Query, Nothing]) -> Page[PeerState]:
    """This engine first, then the paired ones by name, then those that were only found."""
    return Page(_peers(call))


@noun.post("/peers/look", permission="peers:manage", errors=(409, 503), unaudited="it changes nothing, it looks")
def look(call: Call[Query, Nothing]) -> None:
    """Look who is on the network, for half a minute. What is found comes into the list, and as live events."""
    call.gateway.call("peer_look")


@noun.get("/peers/pairings", permission="peers:manage", errors=(409, 503))
def list_pairings(call: Call[Query, Nothing]) -> Page[OpenPairing]:
    """The pairings that are open, without their codes."""
    return Page([convert(each, OpenPairing) for each in call.gateway.call("peer_pairings")])


@noun.post("/peers/pairings", permission="peers:manage", status=201, errors=(409, 422, 503), audit="peer.pair")
def pair(call: Call[Query, NewPeerPairing]) -> MadePeerPairing:
    """Show a code with which one engine may come in. Without roles it may ask models of this machine."""
    body = call.body
    made = convert(
        call.gateway.call("peer_pair", name=body.name, minutes=body.minutes, roles=to_builtins(body.roles)),
        MadePeerPairing,
    )
    call.note(body.name, minutes=body.minutes, **_noted(made.roles))
    return made


@noun.delete("/peers/pairings/{name}", permission="peers:manage", errors=(404, 409, 503), audit="peer.unpair")
def unpair(call: Call[Query, Nothing], name: PairingName) -> None:
    """End a pairing that is open; `-` is the one without a name."""
    call.note(name)
    if not call.gateway.call("peer_unpair", name="" if name == "-" else name)["ended"]:
        raise NotFound(f"no pairing of {name!r} is open")


@noun.post("/peers/join", permission="peers:manage", status=201, errors=(409, 422, 503), audit="peer.join")
def join(call: Call[Query, Joining]) -> PeerState:
    """Pair with the engine that shows the code. Without roles it may ask models of this machine."""
    body = call.body
    asked = {"code": body.code, "address": body.address, "name": body.name, "roles": to_builtins(body.roles)}
    made = convert(call.gateway.call("peer_join", 60.0, **asked), PeerState)
    call.note(made.id, name=made.name, **_noted(made.roles))
    return made


@noun.get("/peers/{peer}", permission="peers:read", errors=(404, 503), etag=True)
def show(call: Call[Query, Nothing], peer: PeerName) -> PeerState:
    """One engine: who it is, what it may do here, what it has."""
    return _find(call, peer)


@noun.patch("/peers/{peer}", permission="peers:manage", errors=(404, 409, 422, 503), audit="peer.change")
def change(call: Call[Query, PeerChange], peer: PeerName) -> PeerState:
    """Call it otherwise, or say what it may do here; it holds at once."""
    body, state = call.body, _find(call, peer)
    call.note(state.id, name=body.name or state.name, moved=body.moved, **_noted(body.roles or state.roles))
    if body.roles is not None:
        call.gateway.call("peer_allow", peer=state.id, roles=to_builtins(body.roles))
    if body.moved:
        call.gateway.call("peer_moved", peer=state.id)
    if body.name is not None:
        call.gateway.call("peer_rename", peer=state.id, name=body.name)
    return _find(call, state.id)


@noun.delete("/peers/{peer}", permission="peers:manage", errors=(404, 409, 503), audit="peer.revoke")
def revoke(call: Call[Query, Nothing], peer: PeerName) -> None:
    """End the pairing: the link is cut at once, and neither lets the other in any more."""
    state = _find(call, peer)
    call.note(state.id, name=state.name)
    call.gateway.call("peer_revoke", peer=state.id)


def _peers(call: Call[Any, Any]) -> list[PeerState]:
    return [convert(each, PeerState) for each in call.gateway.call("peers")]


def _find(call: Call[Any, Any], name: str) -> PeerState:
    for peer in _peers(call):
        if name in (peer.name, peer.id):
            return peer
    raise NotFound(f"there is no peer {name!r}")


def _noted(roles: PeerRoles) -> dict[str, Any]:
    return {"rights": sorted(roles.rights), "workspaces": sorted(roles.workspaces)}
