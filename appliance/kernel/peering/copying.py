"""Flows on their way to another engine: with all their versions, without any secret.

A copy arrives as a draft: every version as it was saved, by whom and when, and none of them live. Its secrets are
named, so that they can be set there; no secret's value is ever sent. A move is a copy whose versions are compared by
their hashes; then the flow is switched off here and put into a folder that says where it has gone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ConfigError, FlowError, NodeError
from appliance.contracts.peers import PeerNotAllowed, PeerRequest, Peers, PeerState
from appliance.engine.validate import validate
from appliance.kernel.peering import wire
from appliance.security.audit import AuditLog
from appliance.security.roles import DEFAULT_WORKSPACE
from appliance.security.vault import Secrets
from appliance.store.flows import Brought
from appliance.store.records import VersionHead
from appliance.world import Machine

if TYPE_CHECKING:
    from appliance.kernel.core import Core

logger = logging.getLogger(__name__)

#: Seconds for a peer to take a flow with all its versions to its disk.
PATIENCE = 120.0
#: The same for what it lacks.
LOOK = 10.0
#: ``secrets.name`` or ``secrets['name']`` in a template.
_SECRET = re.compile(r"""\bsecrets(?:\.([A-Za-z_]\w*)|\[\s*\\?['"]([^'"\\]+)\\?['"]\s*\])""")


class Sent(Struct, kw_only=True):
    """``flow``: a flow with its versions, oldest first; ``live`` is the number that is live there."""

    id: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
    name: Annotated[str, Meta(max_length=200)]
    workspace: str = DEFAULT_WORKSPACE
    live: int | None = None
    by: Annotated[str, Meta(max_length=200)] = ""
    versions: Annotated[list[Brought], Meta(min_length=1, max_length=5000)]


class Lacking(Struct, kw_only=True):
    """``flow_secrets``: which of these are not there, in the workspace to which a flow of this one would come? The
    answer has the form of the question.
    """

    workspace: str = DEFAULT_WORKSPACE
    secrets: Annotated[list[str], Meta(max_length=5000)] = []


class Taken(Struct, kw_only=True):
    """What has become of it: its id and workspace here, the versions' hashes, secrets that have to be set here before
    it can work, and what is wrong with the newest version on this engine.
    """

    flow: str
    workspace: str
    hashes: list[str]
    secrets: list[str] = []
    problems: list[dict[str, Any]] = []


class Copying:
    """Sends flows, and takes those of peers. Blocks on ``flowork.db``: not for the engine's thread."""

    def __init__(self, kernel: Core, peers: Peers) -> None:
        self._kernel = kernel
        self._peers = peers

    def start(self) -> Callable[[], None]:
        """Let flows in; returns the stop."""
        stops = [
            self._peers.serve("flow", self._on_flow, right="flows"),
            self._peers.serve("flow_secrets", self._on_secrets, right="flows"),
        ]

        def stop() -> None:
            while stops:
                stops.pop()()

        return stop

    # --- sending -------------------------------------------------------------------------------------

    def send(self, flow_id: str, to: str, workspace: str, by: str, move: bool) -> dict[str, Any]:
        """Copy or move a flow. Raises ``NotFound``, and what asking a peer raises."""
        flows = self._kernel.store.flows
        flow = flows.get(flow_id)
        peer = self._peer(to)
        heads: list[VersionHead] = []
        before: int | None = None
        while part := flows.versions(flow_id, before, 500):
            heads += part
            before = part[-1].number
        versions = [flows.version(head.id) for head in reversed(heads)]
        body = Sent(
            id=flow.id,
            name=flow.name,
            workspace=workspace or flow.workspace,
            live=flow.live_number,
            by=by,
            versions=[
                Brought(text=one.text, hash=one.hash, author=one.author, message=one.message, created=one.created)
                for one in versions
            ],
        )
        packed = wire.light(msgspec.to_builtins(body), self._kernel.services.blobs)
        answer = self._peers.request(peer.id, "flow", packed, PATIENCE).result(PATIENCE + 10.0)
        taken = msgspec.convert(answer, Taken)
        action = "flow.move" if move else "flow.copy"
        if taken.hashes != [one.hash for one in versions]:
            raise NodeError(f"{peer.name} does not have the same versions; the flow stays as it is here")
        if move:
            flows.enable(flow_id, False, by)
            flows.move(flow_id, f"moved to {peer.name}")
        self._note(by, action, flow.id, {"to": peer.name, "as": taken.flow}, flow.workspace)
        return {**msgspec.to_builtins(taken), "peer": peer.name, "moved": move, "versions": len(versions)}

    def preview(self, flow_id: str, to: str, workspace: str) -> dict[str, Any]:
        """What sending a flow would find there: ``{peer, workspace, secrets}``, the last those to be given anew.

        Raises as :meth:`send`.
        """
        flows = self._kernel.store.flows
        flow = flows.get(flow_id)
        peer = self._peer(to)
        newest = flows.version(flows.versions(flow_id, None, 1)[0].id)
        asked = Lacking(workspace=workspace or flow.workspace, secrets=secrets_in(newest.text))
        answer = self._peers.request(peer.id, "flow_secrets", msgspec.to_builtins(asked), LOOK).result(LOOK + 5.0)
        return {"peer": peer.name, **msgspec.to_builtins(msgspec.convert(answer, Lacking))}

    def _peer(self, to: str) -> PeerState:
        for state in self._peers.states():
            if state.state != "self" and to.casefold() in (state.name.casefold(), state.id.casefold()):
                if not state.connected:
                    raise NodeError(f"{state.name} is {state.text or state.state}")
                if not state.allows.may("flows"):
                    raise PeerNotAllowed(f"{state.name} takes no flows of this engine; its owner can allow it there")
                return state
        raise ConfigError(f"no engine that is called {to!r} is paired with this one")

    # --- taking --------------------------------------------------------------------------------------

    def _on_flow(self, request: PeerRequest) -> None:
        self._kernel.engine.steps.io.call(partial(self._take, request, Sent, self._taken))

    def _on_secrets(self, request: PeerRequest) -> None:
        self._kernel.engine.steps.io.call(partial(self._take, request, Lacking, self._lacking))

    def _take(self, request: PeerRequest, form: type[Any], work: Callable[[Any, PeerState], Struct]) -> None:
        try:
            sent = msgspec.convert(wire.whole(request.body, self._kernel.services.blobs), form)
            request.answer(msgspec.to_builtins(work(sent, request.peer)))
        except msgspec.ValidationError as exc:
            request.error(ConfigError(f"this is no flow: {exc}"))
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("a flow of %s cannot be taken", request.peer.name)
            request.error(exc)

    def _taken(self, sent: Sent, peer: PeerState) -> Taken:
        workspace = self._workspace(sent.workspace, peer)
        flow = self._kernel.store.flows.bring(sent.id, workspace, sent.versions)
        newest = msgspec.json.decode(sent.versions[-1].text)
        exists = {one.id for one in self._kernel.store.flows.list(workspace, "", "", "", 500).items}
        machine = Machine(lambda name: name in exists, self._kernel.data)
        problems = validate(newest, self._kernel.registry, machine)
        missing = self._missing(secrets_in(sent.versions[-1].text), workspace)
        detail = {"from": peer.name, "by": sent.by, "was": sent.id, "versions": len(sent.versions)}
        self._note(f"peer:{peer.name}", "flow.take", flow.id, detail, workspace)
        return Taken(
            flow=flow.id,
            workspace=workspace,
            hashes=[one.hash for one in sent.versions],
            secrets=missing,
            problems=msgspec.to_builtins(problems[:50]),
        )

    def _lacking(self, asked: Lacking, peer: PeerState) -> Lacking:
        workspace = self._workspace(asked.workspace, peer)
        return Lacking(workspace=workspace, secrets=self._missing(asked.secrets, workspace))

    def _missing(self, names: list[str], workspace: str) -> list[str]:
        here = Secrets(self._kernel.store.values.secrets, self._kernel.data).open_all().values.get(workspace, {})
        return [name for name in names if name not in here]

    def _workspace(self, wanted: str, peer: PeerState) -> str:
        for workspace in (wanted, DEFAULT_WORKSPACE, *sorted(peer.roles.workspaces - {"*"})):
            if workspace and peer.roles.may("flows", workspace):
                return workspace
        raise PeerNotAllowed("the pairing names no workspace into which flows may be copied")

    def _note(self, who: str, action: str, target: str, detail: dict[str, Any], workspace: str) -> None:
        audit = AuditLog(self._kernel.store.audit, self._kernel.data)
        with self._kernel.store.atomically():
            entry = audit.add(who, action, target, detail, workspace=workspace)
        audit.settle(entry)


def secrets_in(text: str) -> list[str]:
    """The names of the secrets that a flow's templates and expressions read, as far as they are written out."""
    return sorted({first or second for first, second in _SECRET.findall(text)})
