"""Flows and versions as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from appliance.contracts import WebTrigger
from appliance.engine.states import RunState
from appliance.gateway.routing import Call
from appliance.gateway.services import Gateway
from appliance.security.roles import Identity, allowed
from appliance.security.secret import MASK
from appliance.store.history import RunHead
from appliance.store.records import Flow, Version, VersionHead
from appliance.store.runids import to_text

if TYPE_CHECKING:
    from appliance.flowbook import Saved


class RecentRun(Struct, frozen=True):
    """A run in a flow's strip."""

    id: str
    state: str
    accepted: float


def recent_run(head: RunHead) -> RecentRun:
    """A run of the history for a strip."""
    return RecentRun(to_text(head.id), RunState(head.state).label, head.accepted / 1e6)


class FlowView(Struct, frozen=True, kw_only=True):
    """A flow without its versions' bodies.

    ``newest`` and ``live`` are version numbers; ``live`` is null for a flow that is not deployed. A flow that is
    not ``enabled`` stays deployed, but its triggers start nothing. ``recent`` (its newest runs, latest first) is
    there when it was asked for.
    """

    id: str
    name: str
    workspace: str
    folder: str
    tags: Sequence[str]
    newest: int
    live: int | None
    enabled: bool
    created: float
    updated: float
    recent: list[RecentRun] | None = None


class VersionView(Struct, frozen=True, kw_only=True):
    """One immutable save; ``live`` says whether it is the one that triggers start."""

    number: int
    hash: str
    author: str
    message: str
    created: float
    live: bool


class VersionDetail(VersionView, frozen=True, kw_only=True):
    """A version with the flow as it was saved."""

    flow: dict[str, Any]


class FlowDetail(FlowView, frozen=True, kw_only=True):
    """A flow with its newest version."""

    version: VersionView
    flow: dict[str, Any]


def flow_fields(flow: Flow) -> dict[str, Any]:
    """The fields of :class:`FlowView`."""
    names = ("id", "name", "workspace", "folder", "tags", "newest", "enabled", "created", "updated")
    return {**{name: getattr(flow, name) for name in names}, "live": flow.live_number}


def flow_view(flow: Flow) -> FlowView:
    """A flow as lists show it."""
    return FlowView(**flow_fields(flow))


def version_fields(version: VersionHead, live: int | None) -> dict[str, Any]:
    """The fields of :class:`VersionView`; ``live`` is the number of the live one."""
    names = ("number", "hash", "author", "message", "created")
    return {**{name: getattr(version, name) for name in names}, "live": version.number == live}


def version_view(version: VersionHead, live: int | None) -> VersionView:
    """A version without its body."""
    return VersionView(**version_fields(version, live))


def version_detail(gateway: Gateway, identity: Identity, flow: Flow, version: Version) -> VersionDetail:
    """A version with its body, as far as the caller may see it."""
    body = shown(gateway, identity, flow.workspace, version.body)
    return VersionDetail(**version_fields(version, flow.live_number), flow=body)


def flow_detail(gateway: Gateway, identity: Identity, flow: Flow, version: Version) -> FlowDetail:
    """A flow with a version's body, as far as the caller may see it."""
    body = shown(gateway, identity, flow.workspace, version.body)
    return FlowDetail(**flow_fields(flow), version=version_view(version, flow.live_number), flow=body)


def shown(gateway: Gateway, identity: Identity, workspace: str, body: dict[str, Any]) -> dict[str, Any]:
    """A flow for somebody to look at. Who may not start runs does not see the paths of webhooks, which do."""
    triggers = body.get("triggers")
    if not isinstance(triggers, list) or allowed(identity, "runs:start", workspace):
        return body
    return {**body, "triggers": [_masked(gateway, trigger) for trigger in triggers]}


def _masked(gateway: Gateway, trigger: Any) -> Any:
    if not isinstance(trigger, dict) or not isinstance(trigger.get("config"), dict):
        return trigger
    kind = gateway.registry.triggers.get(str(trigger.get("type")))
    if not isinstance(kind, WebTrigger) or "path" not in trigger["config"]:
        return trigger
    return {**trigger, "config": {**trigger["config"], "path": MASK}}


class SavedFlow(FlowDetail, frozen=True, kw_only=True):
    """The flow as it is now. ``kernel`` is false while there is none: it takes the change up when it starts."""

    notes: list[str]
    kernel: bool


def saved_flow(call: Call[Any, Any], saved: Saved, notes: list[str] | None = None) -> SavedFlow:
    """The answer to a change of a flow, with its tag."""
    call.gateway.changes.forget()
    detail = flow_detail(call.gateway, call.identity, saved.flow, saved.version)
    call.headers["ETag"] = flow_tag(saved.flow, saved.version)
    fields = msgspec.structs.asdict(detail)
    return SavedFlow(**fields, notes=[*(notes or []), *saved.notes], kernel=saved.kernel)


def flow_tag(flow: Flow, version: Version) -> str:
    """Begins with the newest version's number: that is all that a save must match."""
    return f'W/"{flow.num}-{flow.newest}-{version.hash[:12]}-{flow.live}-{flow.updated:.3f}-{flow.enabled:d}"'
