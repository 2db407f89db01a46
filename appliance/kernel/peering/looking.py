"""All boxes at a glance: what an engine tells its peers of itself, and what the panel is shown of all of them.

A peer sees what the right ``flows`` lets it see, in the workspaces that the pairing names: how many runs are under way,
failed, or wait for a person; flows and runs by a text. Nothing of what a run worked on goes over the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ConfigError, FlowError
from appliance.contracts.peers import PeerRequest, PeerRoles, Peers, PeerState
from appliance.engine.states import RunState
from appliance.store.history import RunFilter, RunHead
from appliance.store.places import make_history
from appliance.store.records import Flow
from appliance.store.runids import to_text

if TYPE_CHECKING:
    from appliance.kernel.core import Core

DAY = 86_400.0
#: Seconds for a peer to answer; one that does not is shown without.
PATIENCE = 10.0
MOST = 100
ALL = PeerRoles(rights=frozenset({"flows"}), workspaces=frozenset({"*"}))


class Look(Struct, kw_only=True):
    """``look``: a summary, or the flows and runs that have a text in them."""

    what: Literal["summary", "search"] = "summary"
    text: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST)] = 20
    #: Those that the asking person may see, by their names; ``*`` are all.
    workspaces: tuple[str, ...] = ("*",)


class Looking:
    """Tells of this engine, and asks the others."""

    def __init__(self, kernel: Core, peers: Peers) -> None:
        self._kernel = kernel
        self._peers = peers

    def start(self) -> Callable[[], None]:
        """Let peers look; returns the stop."""
        return self._peers.serve("look", self._on_look, right="flows")

    def _on_look(self, request: PeerRequest) -> None:
        try:
            asked = msgspec.convert(request.body, Look)
        except msgspec.ValidationError as exc:
            request.error(ConfigError(str(exc)))
            return
        future = self._kernel.engine.steps.io.spawn(self._told(asked, request.peer.roles))
        request.on_end(lambda why: _cancel(future))
        future.add_done_callback(partial(_answer, request))

    async def _told(self, asked: Look, roles: PeerRoles) -> Any:
        if "*" not in asked.workspaces:
            both = [name for name in asked.workspaces if roles.may("flows", name)]
            roles = PeerRoles(rights=roles.rights, workspaces=frozenset(both))
        work = self._summary if asked.what == "summary" else partial(self._found, asked)
        return await asyncio.to_thread(work, roles)

    # --- this engine -----------------------------------------------------------------------------------

    def _flows(self, roles: PeerRoles, text: str = "") -> list[Flow]:
        """The flows that may be seen. Blocks."""
        found: list[Flow] = []
        cursor = ""
        while True:
            page = self._kernel.store.flows.list(None, text, "", cursor, 500)
            found += [flow for flow in page.items if roles.may("flows", flow.workspace)]
            cursor = page.next
            if not cursor:
                return found

    def _summary(self, roles: PeerRoles) -> dict[str, Any]:
        flows = self._flows(roles)
        nums = [flow.num for flow in flows]
        live = [flow for flow in flows if flow.live is not None]
        runs = [run for run in list(self._kernel.engine.runs.values()) if roles.may("flows", run.flow.workspace)]
        asks = [parked for run in runs for parked in list(run.parked.values()) if parked.ask is not None]
        history = make_history(self._kernel.data)
        try:
            since = self._kernel.services.wall() - DAY
            failed = RunFilter(flows=nums, states=[RunState.FAILED, RunState.DEAD], since=since)
            heads = history.page(failed, limit=MOST).items if nums else []
        finally:
            history.close()
        names = {flow.num: flow for flow in flows}
        return {
            "runs": len(runs),
            "waiting": sum(run.state is RunState.WAITING for run in runs),
            "needs_me": len(asks),
            "failed_day": len(heads),
            "failed_more": len(heads) == MOST,
            "flows": len(flows),
            "live": len(live),
            "off": sum(not flow.enabled for flow in live),
            "failures": [_run_view(head, names) for head in heads[:5]],
        }

    def _found(self, asked: Look, roles: PeerRoles) -> dict[str, Any]:
        every = self._flows(roles)
        names = {flow.num: flow for flow in every}
        wanted = asked.text.casefold()
        flows = [flow for flow in every if wanted in flow.name.casefold() or wanted in flow.id]
        history = make_history(self._kernel.data)
        try:
            filter_ = RunFilter(flows=list(names), text=asked.text)
            runs = history.page(filter_, limit=asked.limit).items if names and asked.text else []
        finally:
            history.close()
        return {
            "flows": [_flow_view(flow) for flow in flows[: asked.limit]],
            "runs": [_run_view(head, names) for head in runs],
        }

    # --- all of them -----------------------------------------------------------------------------------

    async def all(self, asked: Look) -> list[dict[str, Any]]:
        """This engine first, then every paired one, with what it tells or why it does not."""
        me, *others = self._peers.states()
        paired = [state for state in others if state.paired or state.state in ("connected", "away", "refused")]
        told = await asyncio.gather(self._told(asked, ALL), *(self._ask(state, asked) for state in paired))
        return [
            {**state_view(state), **(answer if "error" in answer else {"told": answer})}
            for state, answer in zip((me, *paired), told, strict=True)
        ]

    async def _ask(self, state: PeerState, asked: Look) -> dict[str, Any]:
        if not state.connected:
            return {"error": state.text or f"it is {state.state}"}
        if not state.allows.may("flows"):
            return {"error": "it does not let this engine look at its flows"}
        future = self._peers.request(state.id, "look", msgspec.to_builtins(asked), PATIENCE)
        try:
            answer = await asyncio.wrap_future(future)
        except FlowError as exc:
            return {"error": exc.message}
        return answer if isinstance(answer, dict) else {"error": "its answer cannot be read"}


def state_view(state: PeerState) -> dict[str, Any]:
    """What is known of an engine without asking it."""
    offers = state.offers
    return {
        "id": state.id,
        "name": state.name,
        "state": state.state,
        "text": state.text,
        "version": state.version,
        "url": state.url,
        "since": state.since,
        "load": offers.load,
        "cores": offers.cores,
        "memory": offers.memory,
        "memory_free": offers.memory_free,
        "models": [model.name for model in offers.models],
        "devices": list(offers.devices),
    }


def _flow_view(flow: Flow) -> dict[str, Any]:
    return {
        "id": flow.id,
        "name": flow.name,
        "workspace": flow.workspace,
        "live": flow.live_number,
        "enabled": flow.enabled,
        "updated": flow.updated,
    }


def _run_view(head: RunHead, names: dict[int, Flow]) -> dict[str, Any]:
    error = head.error.get("message", "") if isinstance(head.error, dict) else ""
    flow = names.get(head.flow)
    return {
        "run": to_text(head.id),
        "flow": flow.id if flow else "",
        "flow_name": flow.name if flow else "",
        "state": RunState(head.state).label,
        "accepted": head.accepted / 1e6,
        "finished": None if head.finished is None else head.finished / 1e6,
        "error": str(error)[:300],
    }


def _cancel(future: Future[Any]) -> None:
    future.cancel()


def _answer(request: PeerRequest, done: Any) -> None:
    if done.cancelled():
        return
    if (exc := done.exception()) is not None:
        request.error(exc)
    else:
        request.answer(done.result())
