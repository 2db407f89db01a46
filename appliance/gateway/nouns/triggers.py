"""Triggers of live versions: do they listen, when do they fire next; and testing one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.contracts import Event, WebTrigger
from appliance.gateway.common import Body, InWorkspace, VersionNumber
from appliance.gateway.flow_views import RecentRun, recent_run
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.starting import Started, accepted, find_trigger, start, version_for
from appliance.kernel.client import KernelAway
from appliance.security.roles import EVERYWHERE, allowed
from appliance.store.history import RunFilter
from appliance.store.records import Flow, Page, Version

noun = Noun("triggers", "A trigger starts runs of the version that is live.")

TriggerId = Annotated[str, Meta(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$", description="A trigger's id")]


#: Runs of a flow among which each trigger's last one is looked for.
_LOOKED_THROUGH = 500


class InFlow(InWorkspace, frozen=True):
    """Which of them."""

    flow: Annotated[list[str], Meta(max_length=100, description="Only of these flows (ids)")] = []
    last: Annotated[bool, Meta(description="With the run that each has started last")] = False


class TriggerView(Struct, frozen=True, kw_only=True):
    """A trigger of a live version.

    ``ok`` is null while the kernel is away; ``status`` says in words how it is, or why it cannot start. ``next``
    are the next moments it fires, if they can be known. ``path`` is a webhook's address under this host, for those
    who may start runs. ``last`` is there when it was asked for, and if it is among the flow's newest 500 runs.
    """

    flow: str
    workspace: str
    id: str
    type: str
    name: str
    version: int
    enabled: bool
    starts_runs: bool
    ok: bool | None
    status: str
    next: list[float]
    path: str = ""
    last: RecentRun | None = None


class FiredEvent(Body, frozen=True):
    """What the trigger is to have seen."""

    payload: Annotated[Any, Meta(description="The run's payload")] = None
    meta: Annotated[dict[str, Any], Meta(description="What templates see as `event`")] = {}
    version: Annotated[VersionNumber | None, Meta(description="A version's number; the live one if left out")] = None


@noun.get("/triggers", permission="triggers:read")
def list_triggers(call: Call[InFlow, Nothing]) -> Page[TriggerView]:
    """The triggers of all live versions."""
    states = _states(call)
    found = []
    for flow, version in call.gateway.store.flows.live():
        if call.workspace in (EVERYWHERE, flow.workspace) and (not call.query.flow or flow.id in call.query.flow):
            last = _last_runs(call, flow) if call.query.last else {}
            found += [_view(call, flow, version, spec, states, last) for spec in _specs(version)]
    return Page(found)


@noun.post(
    "/flows/{flow}/triggers/{trigger}/test",
    permission="triggers:test",
    status=202,
    errors=(200, 503),
    unaudited="the run itself says who started it",
    own_key=True,
)
def fire(call: Call[Nothing, FiredEvent], flow: Flow, trigger: TriggerId) -> Started:
    """Start a run as if the trigger had fired."""
    version = version_for(call.gateway, flow, call.body.version)
    spec = find_trigger(version, trigger)
    payload = accepted(call.gateway, spec, call.body.payload)
    meta = {**call.body.meta, "test": True, "by": call.identity.label}
    event = Event(payload=payload, id=call.key, unique=bool(call.key), meta=meta)
    return start(call, flow, version, spec.id, spec.type, event, starts_run=spec.starts_runs)


def _states(call: Call[Any, Any]) -> dict[tuple[str, str], Mapping[str, Any]] | None:
    """What the kernel says of each trigger; None while it is away."""
    try:
        status = call.gateway.call("status", 5.0)
    except KernelAway:
        return None
    return {(view["flow"], view["id"]): view for view in status["triggers"]}


def _last_runs(call: Call[Any, Any], flow: Flow) -> dict[str, RecentRun]:
    """The newest run of each trigger. Only so many are looked through: one may never have fired in a million runs."""
    heads = call.gateway.history.page(RunFilter(flows=[flow.num]), limit=_LOOKED_THROUGH).items
    return {head.trigger: recent_run(head) for head in reversed(heads)}


def _specs(version: Version) -> list[dict[str, Any]]:
    return [spec for spec in version.body.get("triggers", []) if isinstance(spec, dict)]


def _view(
    call: Call[Any, Any],
    flow: Flow,
    version: Version,
    spec: dict[str, Any],
    states: Mapping[tuple[str, str], Mapping[str, Any]] | None,
    last: Mapping[str, RecentRun],
) -> TriggerView:
    kind = str(spec.get("type"))
    on = flow.enabled and not spec.get("disabled", False)
    state = (states or {}).get((flow.id, str(spec.get("id"))), {})
    web = isinstance(call.gateway.registry.triggers.get(kind), WebTrigger)
    secret = spec.get("config", {}).get("path", "") if web else ""
    status = str(state.get("status", "")) or _why_not(on, states is None)
    return TriggerView(
        flow=flow.id,
        workspace=flow.workspace,
        id=str(spec.get("id")),
        type=kind,
        name=str(spec.get("name", "")),
        version=version.number,
        enabled=on,
        starts_runs=bool(spec.get("starts_runs", True)),
        ok=None if states is None else bool(state.get("ok", not on)),
        status="listening" if web and state.get("ok") else status,
        next=list(state.get("next", [])) if on else [],
        path=f"/hooks/{secret}" if secret and allowed(call.identity, "runs:start", flow.workspace) else "",
        last=last.get(str(spec.get("id"))),
    )


def _why_not(on: bool, away: bool) -> str:
    if not on:
        return "switched off"
    return "the kernel is away" if away else "not attached yet"
