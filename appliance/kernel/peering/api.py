"""What the gateway and the command line may ask of the work across engines, over the kernel's socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from appliance.ai.gateway.names import LOCAL
from appliance.contracts import FlowError
from appliance.engine.needs import needs_of, satisfies
from appliance.kernel.answering import answer
from appliance.kernel.params import arguments
from appliance.kernel.peering.choice import usable, why_nobody
from appliance.kernel.peering.copying import Copying
from appliance.kernel.peering.looking import Look
from appliance.kernel.peering.releases import ReleaseApi
from appliance.kernel.server import Handler, Params, Reply

if TYPE_CHECKING:
    from appliance.kernel.peering.peering import Peering

Text = Annotated[str, Meta(max_length=200)]


class NoPeers(FlowError):
    """The kernel has no links to other engines."""

    id = "no-peers"
    retryable = False


class Missing(Struct, kw_only=True):
    """``placement_missing``: what nodes (their kind and needs) find no engine for at this moment."""

    nodes: Annotated[list[tuple[str, list[str]]], Meta(max_length=20_000)]


class Model(Struct, kw_only=True):
    """``model_elsewhere``: which engine answers for a model that is not on this machine."""

    name: Text = ""
    kind: Text = "language"


class Send(Struct, kw_only=True):
    """``flow_send``."""

    flow: Text
    to: Text
    workspace: Text = ""
    by: Text = ""
    move: bool = False


class Preview(Struct, kw_only=True):
    """``flow_preview``: ``{peer, workspace, secrets}``, the last those that a flow needs and that are missing there."""

    flow: Text
    to: Text
    workspace: Text = ""


class PeeringApi:
    """The methods by name."""

    def __init__(self, peering: Peering) -> None:
        self._peering = peering

    def methods(self) -> dict[str, Handler]:
        return {
            "placements": self._placements,
            "placement_missing": self._missing,
            "model_elsewhere": self._elsewhere,
            "boxes": self._boxes,
            "flow_send": self._send,
            "flow_preview": self._preview,
            **ReleaseApi(self._peering.kernel, lambda: self._peering.releases).methods(),
        }

    def _placements(self, params: Params, reply: Reply) -> None:
        """Steps that are away or wait for an engine, and events that wait for one."""
        engine = self._peering.engine
        names = {state.id: state.name for state in self._peering.states()}

        def turn() -> None:
            outbox = [{"peer": names.get(peer, peer), **view} for peer, view in sorted(engine.outbox.view().items())]
            reply.ok({"steps": engine.placement.views(), "outbox": outbox})

        engine.post(turn)

    def _missing(self, params: Params, reply: Reply) -> None:
        asked, states = arguments(params, Missing), self._peering.states()
        me = [state for state in states if state.state == "self"]
        found: dict[str, None] = {}
        for kind, texts in asked.nodes:
            needs = needs_of(texts)
            if not needs or any(usable(state, needs, kind) for state in states):
                continue
            if not any(all(satisfies(state, need) for need in needs) for state in me):
                found[f"{', '.join(map(str, needs))}: {why_nobody(states, needs, kind)}"] = None
        reply.ok(list(found))

    def _elsewhere(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, Model)
        gate = self._peering.kernel.models.gate
        name = asked.name.partition("/")[2] if "/" in asked.name else asked.name

        async def work() -> str:
            offered = self._peering.kernel.models.peers.offered()
            fit = [(peer, one) for peer, one in offered if _fits(name, peer, one.name, one.task, asked.kind)]
            if not fit:
                return ""
            if "/" not in asked.name:
                own = await gate.models(LOCAL)
                if any(one.name == name if name else one.task in (asked.kind, "") for one in own):
                    return ""
            return fit[0][0]

        answer(reply, self._peering.engine.steps.io.spawn, work())

    def _boxes(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, Look)
        looking = self._peering.looking
        if looking is None:
            raise NoPeers("this kernel has no links to other engines")
        answer(reply, self._peering.engine.steps.io.spawn, looking.all(asked))

    def _copying(self) -> Copying:
        if self._peering.copying is None:
            raise NoPeers("this kernel has no links to other engines")
        return self._peering.copying

    def _preview(self, params: Params, reply: Reply) -> None:
        asked, copying = arguments(params, Preview), self._copying()

        def work() -> None:
            try:
                found = copying.preview(asked.flow, asked.to, asked.workspace)
            except Exception as exc:
                reply.error(exc)
            else:
                reply.ok(found)

        self._peering.engine.steps.io.call(work)

    def _send(self, params: Params, reply: Reply) -> None:
        asked, copying = arguments(params, Send), self._copying()

        def work() -> None:
            try:
                sent = copying.send(asked.flow, asked.to, asked.workspace, asked.by, asked.move)
            except Exception as exc:
                reply.error(exc)
                return
            if asked.move:
                self._peering.kernel.reload(lambda: reply.ok(sent), reply.error)
            else:
                reply.ok(sent)

        self._peering.engine.steps.io.call(work)


def _fits(name: str, peer: str, model: str, task: str, kind: str) -> bool:
    if not name:
        return task in (kind, "")
    return name in (model, f"{peer}/{model}")
