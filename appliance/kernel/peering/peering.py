"""Puts the work across engines together for a kernel that has links to peers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from appliance.contracts import NodeError
from appliance.contracts.peers import Peers, PeerState
from appliance.kernel.peering.copying import Copying
from appliance.kernel.peering.guest import flow_of
from appliance.kernel.peering.looking import Looking
from appliance.kernel.peering.models import LinkedModels, ServedModels
from appliance.kernel.peering.releases import Releases
from appliance.kernel.runs import LiveRun
from appliance.security.roles import DEFAULT_WORKSPACE
from appliance.store.errors import NotFound
from appliance.store.flows import content_hash
from appliance.store.journal import RunRow

if TYPE_CHECKING:
    from appliance.kernel.core import Core
    from appliance.kernel.peered_engine import PeeredEngine


class Peering:
    """Everything that this kernel does with its peers. ``start`` and ``stop`` once each."""

    def __init__(self, kernel: Core) -> None:
        self.kernel = kernel
        self.looking: Looking | None = None
        self.copying: Copying | None = None
        self.releases: Releases | None = None
        self._peers: Peers | None = None
        self._stops: list[Callable[[], Any]] = []
        self._lock = threading.Lock()
        #: The number and version of what a peer's step runs as, by flow and content.
        self._versions: dict[tuple[str, str], tuple[int, int]] = {}
        self._flows: dict[str, set[int]] = {}

    def start(self, peers: Peers) -> None:
        """Begin to work with these peers. Call before they are let in."""
        engine = self.kernel.engine
        guests, placement = engine.guests, engine.placement
        guests.versions, guests.flows_of = self._version, self._flows_of
        guests.kinds = lambda: self.kernel.registry.nodes
        guests.restore = self._restore
        guests.hide = self.kernel.hide
        placement.peers = engine.outbox.peers = peers
        self.kernel.services.peers = lambda: peers
        engine.peer_events.settled = self.kernel.hosting.settled.is_set
        guests.start(peers)
        self._stops.append(guests.stop)
        self._stops.append(engine.peer_events.start(peers))
        self.kernel.models.peers = LinkedModels(peers, engine.services.blobs)
        served = ServedModels(lambda: self.kernel.models, engine.steps.io.spawn, engine.services.blobs)
        self._stops += served.start(peers)
        self.looking, self.copying = Looking(self.kernel, peers), Copying(self.kernel, peers)
        self.releases = Releases(self.kernel, peers)
        self._stops += [self.looking.start(), self.copying.start(), self.releases.start()]
        self._peers = peers
        self._stops.append(peers.on_change(lambda state: engine.post(lambda: self._changed(state))))
        engine.post(placement.refresh)

    @property
    def engine(self) -> PeeredEngine:
        return self.kernel.engine

    def states(self) -> list[PeerState]:
        """This engine first, then the others; none in a kernel without links."""
        return self._peers.states() if self._peers is not None else []

    def stop(self) -> None:
        """Let nobody in, and ask for nothing any more. Twice is fine."""
        while self._stops:
            self._stops.pop()()

    def _changed(self, state: PeerState) -> None:
        self.kernel.engine.placement.changed(state)
        self.kernel.engine.guests.changed(state)
        self.kernel.engine.outbox.changed(state)

    def _restore(self, row: RunRow, chunks: list[bytes]) -> LiveRun:
        return self.kernel.recovery.told(row, chunks)

    # --- what peers' steps run as ----------------------------------------------------------------------

    def _version(self, peer: PeerState, wanted: str, node: dict[str, Any]) -> tuple[int, int]:
        """Kept as a version of the peer's flow, each once. Blocks on ``flowork.db``. Raises ``FlowError``."""
        workspace = self._workspace(peer, wanted)
        flow_id, body = flow_id_of(peer, workspace), flow_of(peer.name, node)
        key = flow_id, content_hash(body)
        with self._lock:
            known = self._flows_of(peer)
            if key not in self._versions:
                self._versions[key] = self._saved(flow_id, workspace, body, key[1], peer)
                known.add(self._versions[key][0])
            return self._versions[key]

    def _saved(
        self, flow_id: str, workspace: str, body: dict[str, Any], digest: str, peer: PeerState
    ) -> tuple[int, int]:
        flows = self.kernel.store.flows
        try:
            heads = flows.versions(flow_id, limit=500)
        except NotFound:
            heads = []
        for head in heads:
            if head.hash == digest:
                return head.flow, head.id
        base = heads[0].number if heads else None
        message = f"{body['nodes'][0]['id']}: {body['nodes'][0]['type']}"
        version = flows.save(flow_id, workspace, body, f"peer:{peer.name}", message, base)
        return version.flow, version.id

    def _workspace(self, peer: PeerState, wanted: str) -> str:
        """Where a peer's steps run: in the workspace of the same name if it may, else in one that it may."""
        roles = peer.roles
        for workspace in (wanted, DEFAULT_WORKSPACE, *sorted(roles.workspaces - {"*"})):
            if workspace and roles.may("run", workspace):
                return workspace
        raise NodeError("the pairing names no workspace in which this engine may run steps", retryable=False)

    def _flows_of(self, peer: PeerState) -> set[int]:
        """The flows of a peer's steps, in every workspace: all of them, or a request that was done would be unknown."""
        # In a cluster another kernel may have made one.
        found = self._flows.get(peer.id) if self.kernel.homes is None else None
        if found is None:
            begin = flow_id_of(peer, "")
            page = self.kernel.store.flows.list(None, begin, "", "", 500)
            found = self._flows[peer.id] = {flow.num for flow in page.items if flow.id.startswith(begin)}
        return found


def flow_id_of(peer: PeerState, workspace: str) -> str:
    """The id of the flow in which a peer's steps run: of its own id, which stays when it is renamed."""
    plain = "".join(char for char in peer.id.casefold() if char.isascii() and char.isalnum())[:16]
    return f"peer-{plain}" if workspace in ("", DEFAULT_WORKSPACE) else f"peer-{plain}-{workspace}"[:63].rstrip("-")
