"""Placements: steps and events that are for other engines, all boxes at a glance, and flows that go to another box."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from appliance.gateway.common import Body, InWorkspace, Query, Workspace
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.roles import EVERYWHERE
from appliance.store.records import Flow

noun = Noun(
    "placements",
    "A node says what it needs, and its step runs on the engine that has it. Paired engines are looked at together, "
    "and flows are copied from one to another.",
)

_SENDING = 150.0


class AwayStep(Struct, frozen=True, kw_only=True):
    """A step that is at a peer, or waits for an engine that has what it needs.

    ``state``: ``waiting`` (nobody has it yet), ``bound`` (the peer ``name`` has it, as the run ``there``) or ``cut``
    (the same, and the link to it is gone). ``until`` is when its time is over; times are Unix seconds.
    """

    run: str
    flow: str
    workspace: str
    node: str
    needs: list[str]
    state: str
    peer: str = ""
    name: str = ""
    there: str = ""
    since: float = 0.0
    until: float = 0.0


class OutboxOf(Struct, frozen=True, kw_only=True):
    """The events that wait for a peer, since when, and how many had to be left out."""

    peer: str
    waiting: int
    since: float | None = None
    lost: int = 0


class Placements(Struct, frozen=True):
    """All that is on its way between engines."""

    steps: list[AwayStep]
    outbox: list[OutboxOf]


class SeenRun(Struct, frozen=True, kw_only=True):
    """A run on some box."""

    run: str
    flow: str
    flow_name: str
    state: str
    accepted: float
    finished: float | None
    error: str = ""


class SeenFlow(Struct, frozen=True, kw_only=True):
    """A flow on some box; ``live`` is the number of its live version."""

    id: str
    name: str
    workspace: str
    live: int | None
    enabled: bool
    updated: float


class Summary(Struct, frozen=True, kw_only=True):
    """How a box is: runs under way and those that wait, questions for a person, what failed in the last day (with
    ``failed_more`` there are more than were counted), flows, those that are live, and live ones that are switched off.
    """

    runs: int
    waiting: int
    needs_me: int
    failed_day: int
    failed_more: bool = False
    flows: int
    live: int
    off: int = 0
    failures: list[SeenRun] = []


class Found(Struct, frozen=True, kw_only=True):
    """What has the text in it: flows by name or id, runs by what they worked on or how they ended."""

    flows: list[SeenFlow]
    runs: list[SeenRun]


class BoxFacts(Struct, frozen=True, kw_only=True):
    """One engine: this one (``state`` is ``self``) or a paired one.

    ``load`` is its run queue per core; ``error`` says why it tells nothing more (it is away, or does not let this
    engine look). ``url`` is where its panel is.
    """

    id: str
    name: str
    state: str
    text: str = ""
    version: str = ""
    url: str = ""
    since: float = 0.0
    load: float = 0.0
    cores: int = 0
    memory: int = 0
    memory_free: int = 0
    models: list[str] = []
    devices: list[str] = []
    error: str = ""


class Box(BoxFacts, frozen=True, kw_only=True):
    """The same with its summary."""

    told: Summary | None = None


class BoxFound(BoxFacts, frozen=True, kw_only=True):
    """The same with what was found there."""

    told: Found | None = None


class Boxes(Struct, frozen=True):
    """All boxes, this one first."""

    items: list[Box]


class FoundOnBoxes(Struct, frozen=True):
    """All boxes with what was found there, this one first."""

    items: list[BoxFound]


class BoxSearch(InWorkspace, frozen=True, kw_only=True):
    """What is looked for."""

    text: Annotated[str, Meta(min_length=1, max_length=200, description="Part of a flow's name, or of a run's data")]
    limit: Annotated[int, Meta(ge=1, le=100, description="Flows, and runs, of each box")] = 20


class SendTo(Body, frozen=True):
    """Where to."""

    to: Annotated[str, Meta(min_length=1, max_length=200, description="The name or id of a paired engine")]
    workspace: Annotated[Workspace | None, Meta(description="The workspace there; of the same name if left out")] = None
    move: Annotated[bool, Meta(description="Switch it off here once it is there")] = False


class SendLook(Query, frozen=True, kw_only=True):
    """To which engine, and into which of its workspaces; empty: of the same name, or one that the pairing allows."""

    to: Annotated[str, Meta(min_length=1, max_length=100, description="A paired engine: its name or id")]
    workspace: Annotated[str, Meta(max_length=60, description="The workspace there")] = ""


class SendPreview(Struct, frozen=True, kw_only=True):
    """The engine, the workspace there, and the secrets that the flow reads and that have to be given there anew."""

    peer: str
    workspace: str
    secrets: list[str]


class SentTo(Struct, frozen=True, kw_only=True):
    """What has become of it there: its id, its workspace, the hash of each version, the secrets that have to be set
    there, and what is wrong with its newest version on that engine.
    """

    peer: str
    flow: str
    workspace: str
    versions: int
    moved: bool
    hashes: list[str]
    secrets: list[str] = []
    problems: list[dict[str, Any]] = []


@noun.get("/placements", permission="runs:read", errors=(503,))
def list_placements(call: Call[InWorkspace, Nothing]) -> Placements:
    """Steps that are at another engine or wait for one, and the events that wait for each."""
    found = convert(call.gateway.call("placements"), Placements)
    mine = [step for step in found.steps if call.workspace in (EVERYWHERE, step.workspace)]
    return Placements(mine, found.outbox)


@noun.get("/placements/boxes", permission="flows:read", errors=(409, 503))
def boxes(call: Call[InWorkspace, Nothing]) -> Boxes:
    """All my boxes: this engine and the paired ones, each with how it is.

    A peer tells what its pairing lets this engine see, of the workspace that is asked for (`*`: all of them).
    """
    told = call.gateway.call("boxes", what="summary", workspaces=[call.workspace])
    return Boxes(convert(told, list[Box]))


@noun.get("/placements/search", permission="flows:read", errors=(409, 503))
def search(call: Call[BoxSearch, Nothing]) -> FoundOnBoxes:
    """Flows and runs on all boxes that have a text in them."""
    asked = call.query
    told = call.gateway.call("boxes", what="search", text=asked.text, limit=asked.limit, workspaces=[call.workspace])
    return FoundOnBoxes(convert(told, list[BoxFound]))


@noun.get("/flows/{flow}/send", permission="flows:write", errors=(403, 404, 409, 422, 502, 503, 504))
def preview(call: Call[SendLook, Nothing], flow: Flow) -> SendPreview:
    """What sending a flow to a paired engine would find there, before anything is sent."""
    asked = call.query
    found = call.gateway.call("flow_preview", flow=flow.id, to=asked.to, workspace=asked.workspace)
    return convert(found, SendPreview)


@noun.post(
    "/flows/{flow}/send", permission="flows:write", errors=(403, 404, 409, 422, 502, 503, 504), audit="flow.send"
)
def send(call: Call[Nothing, SendTo], flow: Flow) -> SentTo:
    """Copy or move a flow to a paired engine, with all its versions.

    It arrives as a draft: saved, and not live. Its secrets are named and never sent. A move switches the flow off here,
    once every version is there, and puts it into a folder that says where it has gone.
    """
    asked = call.body
    call.note(flow.id, to=asked.to, move=asked.move)
    sent = call.gateway.call(
        "flow_send",
        _SENDING,
        flow=flow.id,
        to=asked.to,
        workspace=asked.workspace or "",
        by=call.identity.label,
        move=asked.move,
    )
    call.gateway.changes.forget()
    return convert(sent, SentTo)
