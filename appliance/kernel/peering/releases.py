"""Release files between engines: what this one gives to its peers, and what it reads of theirs for its own update.

Any paired engine may read the release that this one runs: it is no secret. A piece at a time, by requests: as a blob it
would lie on the disk of both a second time, and a whole system is larger than any blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Busy, ConfigError
from appliance.contracts.peers import PeerRequest, Peers
from appliance.kernel.answering import answer
from appliance.kernel.params import NotNow, arguments
from appliance.kernel.server import Handler, Params, Reply

if TYPE_CHECKING:
    from appliance.kernel.core import Core
    from appliance.update.giving import Offer

#: Seconds for a peer to answer.
_PATIENCE = 20.0
Text = Annotated[str, Meta(max_length=200)]
Offset = Annotated[int, Meta(ge=0, lt=1 << 40)]


class Wanted(Struct, kw_only=True):
    """A piece of the release ``id``, of up to 256 KB; what peers ask each other for."""

    id: Text
    offset: Offset


class From(Struct, kw_only=True):
    """``release_offer``: what the peer (an id or a name) gives."""

    peer: Text


class PieceFrom(Wanted, kw_only=True):
    """``release_piece``: a piece of what it gives."""

    peer: Text


class Releases:
    """Gives, and asks the others."""

    def __init__(self, kernel: Core, peers: Peers) -> None:
        self._kernel = kernel
        self._peers = peers
        #: Peers for which a piece is being read.
        self._reading: set[str] = set()

    def start(self) -> Callable[[], None]:
        """Give to peers; returns the stop."""
        stops = [self._peers.serve("release", self._on_release), self._peers.serve("release.piece", self._on_piece)]

        def stop() -> None:
            for each in stops:
                each()

        return stop

    # --- for peers: on their thread ----------------------------------------------------------------------

    def _on_release(self, request: PeerRequest) -> None:
        self._tell(request, self._offer())

    def _on_piece(self, request: PeerRequest) -> None:
        try:
            wanted = msgspec.convert(request.body, Wanted)
        except msgspec.ValidationError as exc:
            raise ConfigError(str(exc)) from None
        peer = request.peer.id
        if peer in self._reading:
            raise Busy("one piece after another, please", retry_after=0.2)
        self._reading.add(peer)
        self._tell(request, self._piece(wanted), lambda: self._reading.discard(peer))

    def _tell(
        self, request: PeerRequest, work: Coroutine[Any, Any, Any], over: Callable[[], object] = lambda: None
    ) -> None:
        def done(future: Any) -> None:
            over()
            if future.cancelled():
                return
            if (exc := future.exception()) is not None:
                request.error(exc)
            else:
                request.answer(future.result())

        self._kernel.engine.steps.io.spawn(work).add_done_callback(done)

    async def _offer(self) -> Any:
        from appliance.update.giving import offer  # which few kernels ever need

        found: Offer | None = await asyncio.to_thread(offer)
        return None if found is None else msgspec.to_builtins(found)

    async def _piece(self, wanted: Wanted) -> bytes:
        from appliance.update.giving import piece

        return await asyncio.to_thread(piece, wanted.id, wanted.offset)

    # --- for the gateway and the command line ---------------------------------------------------------------

    async def offers(self) -> list[dict[str, Any]]:
        """What each connected peer gives (``peer``: its name); those that give nothing, or do not answer, are left out.

        Believed by nobody: a release is judged by its signature.
        """
        there = [state for state in self._peers.states() if state.state == "connected"]
        told = await asyncio.gather(*(self.ask(state.id, "release") for state in there), return_exceptions=True)
        return [{**each, "peer": state.name} for state, each in zip(there, told, strict=True) if isinstance(each, dict)]

    async def ask(self, peer: str, method: str, body: Any = None) -> Any:
        """Raises ``FlowError``."""
        return await asyncio.wrap_future(self._peers.request(peer, method, body, _PATIENCE))


class ReleaseApi:
    """The methods by name; ``releases`` is None in a kernel without links to other engines."""

    def __init__(self, kernel: Core, releases: Callable[[], Releases | None]) -> None:
        self._kernel = kernel
        self._releases = releases

    def methods(self) -> dict[str, Handler]:
        return {"release_offers": self._offers, "release_offer": self._offer, "release_piece": self._piece}

    def _offers(self, params: Params, reply: Reply) -> None:
        found = self._releases()
        if found is None:
            reply.ok([])
        else:
            answer(reply, self._kernel.engine.steps.io.spawn, found.offers())

    def _offer(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, From)
        self._ask(reply, partial(self._need().ask, asked.peer, "release"))

    def _piece(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, PieceFrom)
        body = {"id": asked.id, "offset": asked.offset}
        self._ask(reply, partial(self._need().ask, asked.peer, "release.piece", body))

    def _ask(self, reply: Reply, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        answer(reply, self._kernel.engine.steps.io.spawn, work())

    def _need(self) -> Releases:
        if (found := self._releases()) is None:
            raise NotNow("this engine has no links to other engines")
        return found
