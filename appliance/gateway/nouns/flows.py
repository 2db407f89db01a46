"""Flows: saving, deploying, rolling back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.contracts import Problem
from appliance.engine.validate import NodeTraits
from appliance.gateway.common import (
    Body,
    InWorkspace,
    Note,
    Paged,
    VersionNumber,
    one_workspace,
)
from appliance.gateway.flow_views import (
    FlowDetail,
    FlowView,
    SavedFlow,
    VersionView,
    flow_detail,
    flow_fields,
    flow_tag,
    flow_view,
    recent_run,
    saved_flow,
    version_view,
)
from appliance.gateway.problems import PreconditionFailed
from appliance.gateway.routing import OWN, Call, Nothing, Noun
from appliance.store.errors import Conflict, NotFound
from appliance.store.history import RunFilter
from appliance.store.records import Flow, Page, Version

noun = Noun("flows", "A flow is a graph of nodes with its triggers. Every save is a version; one of them is live.")

STRIP = 12


class ListFlows(Paged, frozen=True):
    """Which flows."""

    search: Annotated[str, Meta(max_length=200, description="Part of a name or id")] = ""
    tag: Annotated[str, Meta(max_length=120, description="Only flows with this tag")] = ""
    recent: Annotated[bool, Meta(description="With the newest runs of each")] = False


class Draft(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to save."""

    draft: Annotated[bool, Meta(description="Save even if there are faults; it cannot be deployed then")] = False


class DraftInWorkspace(InWorkspace, frozen=True):
    """Where and how to save."""

    draft: Annotated[bool, Meta(description="Save even if there are faults; it cannot be deployed then")] = False


class NewFlow(Body, frozen=True):
    """A flow to be saved for the first time; an older form is converted."""

    flow: Annotated[dict[str, Any], Meta(description="The flow (docs/flow-format.md)")]
    id: Annotated[str | None, Meta(description="Its id; made from its name if left out")] = None
    message: Annotated[Note, Meta(description="What this version is about")] = ""
    deploy: Annotated[bool, Meta(description="Make it live at once")] = False


class FlowEdit(Body, frozen=True):
    """A new version of a flow."""

    flow: Annotated[dict[str, Any], Meta(description="The flow (docs/flow-format.md)")]
    base: Annotated[VersionNumber, Meta(description="The number of the version that was edited")]
    message: Annotated[Note, Meta(description="What has changed")] = ""
    deploy: Annotated[bool, Meta(description="Make it live at once")] = False


class Move(Body, frozen=True):
    """Where to."""

    folder: Annotated[str, Meta(max_length=200, description="Names with / between them; empty is the top")]


class Check(Body, frozen=True):
    """A flow to be looked at."""

    flow: dict[str, Any]
    id: Annotated[str | None, Meta(description="The id of the flow that this would be a version of")] = None


class Checked(Struct, frozen=True):
    """All faults of a flow; ``flow`` is it in today's form, ``notes`` say what was converted.

    ``nodes`` has the ports and the effect of each node, as its config makes them; a node in a body is named
    ``loop/inner``.
    """

    ok: bool
    problems: list[Problem]
    flow: dict[str, Any]
    notes: list[str]
    nodes: dict[str, NodeTraits]


@noun.get("/flows", permission="flows:read")
def list_flows(call: Call[ListFlows, Nothing]) -> Page[FlowView]:
    """Flows by name."""
    query = call.query
    workspace = None if query.workspace == "*" else query.workspace
    page = call.gateway.store.flows.list(workspace, query.search, query.tag, query.cursor, query.limit)
    items = [_with_strip(call, flow) if query.recent else flow_view(flow) for flow in page.items]
    return Page(items, page.next)


def _with_strip(call: Call[ListFlows, Nothing], flow: Flow) -> FlowView:
    found = call.gateway.history.page(RunFilter(flows=[flow.num]), limit=STRIP)
    return FlowView(**flow_fields(flow), recent=[recent_run(run) for run in found.items])


@noun.post("/flows", permission="flows:write", status=201, errors=(409,), audit=OWN, once=True)
def create(call: Call[DraftInWorkspace, NewFlow]) -> SavedFlow:
    """Save a flow for the first time.

    An older form (`connections`, `module_id` …) is converted. A webhook without a path gets a random one, so look at
    the answer. All faults are told at once, each with its place.
    """
    one_workspace(call.workspace)
    body, notes = _readable(call.body.flow)
    try:
        saved = call.gateway.book.save(
            body,
            by=call.identity,
            flow_id=call.body.id,
            workspace=call.workspace,
            message=call.body.message,
            deploy=call.body.deploy,
            draft=call.query.draft,
        )
    except Conflict as exc:
        raise _told(call, exc, call.body.id or "") from None
    call.headers["Location"] = f"/api/v1/flows/{saved.flow.id}"
    return saved_flow(call, saved, notes)


@noun.get("/flows/{flow}", permission="flows:read", etag=True)
def show(call: Call[Nothing, Nothing], flow: Flow) -> FlowDetail:
    """A flow with its newest version. The `ETag` can be given back as `If-Match` when saving."""
    version = call.gateway.store.flows.numbered(flow.id)
    call.headers["ETag"] = flow_tag(flow, version)
    return flow_detail(call.gateway, call.identity, flow, version)


@noun.put("/flows/{flow}", permission="flows:write", errors=(409, 412), audit=OWN)
def save(call: Call[Draft, FlowEdit], flow: Flow) -> SavedFlow:
    """Save a new version on top of `base`.

    If `base` is not the newest version any more, nothing is saved and the 409 names both versions (`extra`), so
    that nobody's edit is lost. Saving what the newest version holds already makes no new one.
    """
    newest = call.gateway.store.flows.numbered(flow.id)
    _check_precondition(call.request, flow, newest)
    body, notes = _readable(call.body.flow)
    try:
        saved = call.gateway.book.save(
            body,
            by=call.identity,
            flow_id=flow.id,
            workspace=flow.workspace,
            base=call.body.base,
            message=call.body.message,
            deploy=call.body.deploy,
            draft=call.query.draft,
        )
    except Conflict as exc:
        raise _told(call, exc, flow.id) from None
    return saved_flow(call, saved, notes)


@noun.delete("/flows/{flow}", permission="flows:delete", audit=OWN)
def delete(call: Call[Nothing, Nothing], flow: Flow) -> None:
    """Delete a flow. Its runs and versions can still be looked at; its state is gone."""
    call.gateway.book.delete(flow.id, by=call.identity)
    call.gateway.changes.forget()


@noun.post("/flows/validate", permission="flows:write", unaudited="changes nothing")
def validate(call: Call[InWorkspace, Check]) -> Checked:
    """Find all faults of a flow, each with its place and its mend, without saving it."""
    body, notes = _readable(call.body.flow)
    problems = call.gateway.book.problems(body, call.body.id, call.workspace)
    notes += call.gateway.book.notes(body)
    return Checked(not problems, problems, body, notes, call.gateway.book.traits(body))


@noun.post("/flows/{flow}/move", permission="flows:write", audit="flow.move", atomic=True)
def move(call: Call[Nothing, Move], flow: Flow) -> FlowView:
    """Put a flow into another folder of the list."""
    call.note(flow.id, folder=call.body.folder)
    return flow_view(call.gateway.store.flows.move(flow.id, call.body.folder.strip("/ ")))


def _check_precondition(headers: Mapping[str, str], flow: Flow, newest: Version) -> None:
    """``If-Match`` (RFC 9110, 13.1.1) names the version that was edited; a deploy in between does no harm."""
    wanted = headers.get("if-match", "").strip()
    if not wanted or wanted == "*":
        return
    begins = f'"{flow.num}-{newest.number}-'
    if not any(part.strip().removeprefix("W/").startswith(begins) for part in wanted.split(",")):
        raise PreconditionFailed(f"version {newest.number} is the newest now, not the one that If-Match names")


def _told(call: Call[Any, Any], exc: Conflict, flow_id: str) -> Conflict:
    """The conflict with authors and times of both versions."""
    told: dict[str, VersionView | None] = {}
    for name, number in (("yours", exc.yours), ("newest", exc.newest)):
        try:
            found = None if number is None else call.gateway.store.flows.numbered(flow_id, number)
        except NotFound:
            found = None
        told[name] = None if found is None else version_view(found, None)
    exc.detail = told
    return exc


def _readable(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A flow in today's form, and notes on what was converted."""
    from appliance.flowbook import readable

    return readable(raw)
