"""What the gateway and the command line may ask of the peers, over the kernel's socket.

``peers {}``
    A list of :class:`appliance.contracts.PeerState`: this engine, the paired ones, those that are only found.
``peer_look {}``
    Look at the network for half a minute; what is found is told as live events, and by ``peers``.
``peer_pair {name?, minutes?, roles?}``
    Opens a pairing: ``{name, code, expires, port}``. ``peer_pairings {}`` lists the open ones (without codes),
    ``peer_unpair {name}`` ends one.
``peer_join {code, address?, name?, roles?}``
    Pairs with the engine that shows the code; answered with its state.
``peer_revoke {peer}``, ``peer_rename {peer, name}``, ``peer_allow {peer, roles}``, ``peer_moved {peer}``
    Answered with its state.

``peer`` is an id or a name, ``roles`` a :class:`appliance.contracts.PeerRoles`. Live events: ``{"type": "peer", "peer":
PeerState}``; of one that is not known any more ``state`` is ``revoked`` or ``gone``, and little else is there.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import PeerRoles, PeerState
from appliance.fleet.codes import MINUTES, OpenPairing
from appliance.fleet.peers.gate import Agreement
from appliance.fleet.peers.peers import EnginePeers
from appliance.kernel.params import NotNow
from appliance.kernel.server import BadRequest, Handler, Params, Reply

if TYPE_CHECKING:
    from appliance.kernel.peering.cluster_peers import ClusterPeers

Name = Annotated[str, Meta(max_length=60)]


class Pair(Struct, kw_only=True):
    """The parameters of ``peer_pair``."""

    name: Name = ""
    minutes: float = MINUTES
    roles: PeerRoles | None = None


class Join(Struct, kw_only=True):
    """The parameters of ``peer_join``."""

    code: Name
    address: Annotated[str, Meta(max_length=300)] = ""
    name: Name = ""
    roles: PeerRoles | None = None


class Named(Struct, kw_only=True):
    """The parameters of what is done to one peer."""

    peer: Name


class Renamed(Named, kw_only=True):
    """The parameters of ``peer_rename``."""

    name: Name


class Allowed(Named, kw_only=True):
    """The parameters of ``peer_allow``."""

    roles: PeerRoles


class PeersApi:
    """The methods by name. Raises ``FlowError`` for what cannot be done."""

    def __init__(self, peers: EnginePeers | ClusterPeers) -> None:
        self._all = peers

    @property
    def _peers(self) -> EnginePeers:
        return self._all.here

    def methods(self) -> dict[str, Handler]:
        return {
            "peers": self._list,
            "peer_look": self._look,
            "peer_pair": self._pair,
            "peer_pairings": self._pairings,
            "peer_unpair": self._unpair,
            "peer_join": self._join,
            "peer_revoke": self._revoke,
            "peer_rename": self._rename,
            "peer_allow": self._allow,
            "peer_moved": self._moved,
        }

    def _list(self, params: Params, reply: Reply) -> None:
        reply.ok(msgspec.to_builtins(self._all.states()))

    def _look(self, params: Params, reply: Reply) -> None:
        self._peers.look()
        reply.ok()

    def _pair(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Pair)
        made = self._peers.pair(asked.name, asked.roles, asked.minutes)
        reply.ok({**_view(made), "code": made.code, "port": self._peers.gate.port})

    def _pairings(self, params: Params, reply: Reply) -> None:
        reply.ok([_view(each) for each in self._peers.gate.codes.all()])

    def _unpair(self, params: Params, reply: Reply) -> None:
        name = params.get("name", "")
        reply.ok({"ended": self._peers.unpair(name) if isinstance(name, str) else False})

    def _join(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Join)

        def done(future: Future[PeerState]) -> None:
            if (exc := future.exception()) is not None:
                reply.error(exc)
            else:
                reply.ok(msgspec.to_builtins(future.result()))

        self._peers.join(asked.code, asked.address, asked.name, asked.roles).add_done_callback(done)

    def _revoke(self, params: Params, reply: Reply) -> None:
        reply.ok(msgspec.to_builtins(self._peers.revoke(_form(params, Named).peer)))

    def _rename(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Renamed)
        reply.ok(msgspec.to_builtins(self._peers.rename(asked.peer, asked.name)))

    def _allow(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Allowed)
        reply.ok(msgspec.to_builtins(self._peers.allow(asked.peer, asked.roles)))

    def _moved(self, params: Params, reply: Reply) -> None:
        reply.ok(msgspec.to_builtins(self._peers.moved(_form(params, Named).peer)))


def peers_methods(peers: EnginePeers | ClusterPeers | None) -> dict[str, Handler]:
    """The methods; in a kernel without peers each says so."""
    if peers is not None:
        return PeersApi(peers).methods()

    def none(params: Params, reply: Reply) -> None:
        raise NotNow(NO_PEERS)

    def nobody(params: Params, reply: Reply) -> None:
        reply.ok([])

    return {"peers": nobody, "peer_pairings": nobody, **dict.fromkeys(_NAMES, none)}


NO_PEERS = "this kernel has no links to other engines: it runs alone for one flow"
_NAMES = (
    "peer_look",
    "peer_pair",
    "peer_unpair",
    "peer_join",
    "peer_revoke",
    "peer_rename",
    "peer_allow",
    "peer_moved",
)


def _view(pairing: OpenPairing[Agreement]) -> dict[str, Any]:
    return {
        "name": pairing.name,
        "expires": round(time.time() + pairing.expires - time.monotonic()),
        "roles": msgspec.to_builtins(pairing.about.roles),
    }


def _form(params: Params, form: type[Any]) -> Any:
    try:
        return msgspec.convert(params, form)
    except msgspec.ValidationError as exc:
        raise BadRequest(str(exc)) from None
