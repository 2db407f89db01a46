"""Runs: starting, looking at, comparing, cancelling and replaying them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from appliance.engine.states import Letter, RunState
from appliance.gateway.common import Body, Moment, Paged, Query, RunIdText, VersionNumber
from appliance.gateway.flow_views import shown
from appliance.gateway.places import look_up
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.run_actions import BulkResult, Replayed, ReplayFrom, cancel_run, for_each_run, replay_run
from appliance.gateway.run_compare import RunComparison, compare_runs
from appliance.gateway.run_list import child_page, run_page
from appliance.gateway.run_views import ChildView, RunFlow, RunStory, RunView
from appliance.gateway.starting import Started, start_by_hand
from appliance.security.roles import require
from appliance.store.history import RunFilter, RunHead
from appliance.store.records import Flow, Page
from appliance.store.runids import to_text
from appliance.wording import counted

noun = Noun("runs", "A run is one execution of one version of a flow. What happened in it is kept step by step.")

State = Literal["queued", "running", "waiting", "succeeded", "failed", "dead", "cancelled", "skipped"]


class ListRuns(Paged, frozen=True):
    """Which runs."""

    flow: Annotated[list[str], Meta(max_length=100, description="Only of these flows (ids)")] = []
    state: Annotated[list[State], Meta(max_length=10, description="Only in these states")] = []
    trigger: Annotated[str, Meta(max_length=120, description="Only started by the trigger with this id")] = ""
    since: Annotated[Moment | None, Meta(description="Accepted at this moment or later")] = None
    until: Annotated[Moment | None, Meta(description="Accepted before this moment")] = None
    text: Annotated[str, Meta(max_length=200, description="This text is in the event, a value or an error")] = ""
    letter: Annotated[
        Literal["open", "replayed", "discarded"] | None, Meta(description="Only on the dead-letter list")
    ] = None
    children: Annotated[bool, Meta(description="Also runs that other runs started")] = False


class ListChildren(Paged, frozen=True):
    """Which of the runs that a run started."""

    state: Annotated[list[State], Meta(max_length=10, description="Only in these states")] = []


class NewRun(Body, frozen=True):
    """What to start a run with."""

    input: Annotated[Any, Meta(description="The payload; checked against the manual trigger's inputs")] = None
    wait: Annotated[float, Meta(ge=0, le=60, description="Seconds to wait for the result")] = 0.0
    version: Annotated[
        VersionNumber | None, Meta(description="A version's number; the live one (else the newest) if left out")
    ] = None


class Values(Query, frozen=True):
    """How much to show."""

    values: Annotated[
        Literal["full", "none"], Meta(description="`none` leaves out what went into the steps and came out")
    ] = "full"


class Bulk(Body, frozen=True):
    """What to do with many runs."""

    action: Literal["cancel", "replay"]
    runs: Annotated[list[RunIdText], Meta(min_length=1, max_length=500)]
    version: Annotated[Literal["same", "live"], Meta(description="For a replay")] = "same"


@noun.get("/runs", permission="runs:read")
def list_runs(call: Call[ListRuns, Nothing]) -> Page[RunView]:
    """Runs, newest first. With `text` a page may be short although there is a `next` one."""
    query = call.query
    wanted = RunFilter(
        states=[RunState[state.upper()] for state in query.state],
        trigger=query.trigger,
        since=query.since,
        until=query.until,
        text=query.text,
        letter=None if query.letter is None else Letter[query.letter.upper()],
        children=query.children,
    )
    return run_page(call.gateway, call.workspace, query.flow, wanted, query.cursor, query.limit)


@noun.post(
    "/flows/{flow}/runs",
    permission="runs:start",
    status=202,
    errors=(200, 404, 503),
    unaudited="the run itself says who started it",
    own_key=True,
)
def start(call: Call[Nothing, NewRun], flow: Flow) -> Started:
    """Start a run. Answered once it is on disk, or with `wait` once it has ended (200), if that comes in time.

    With an `Idempotency-Key`, sending the same again starts nothing and names the run that there is.
    """
    return start_by_hand(call, flow, call.body.input, call.body.version, call.body.wait)


@noun.get("/runs/{run}", permission="runs:read", etag=True)
def show(call: Call[Values, Nothing], run: RunHead) -> RunStory:
    """A run with its event, its steps, and everything that happened in order.

    A value that was too large to be kept with its step is shown if it has at most a megabyte, else as a reference
    `{"$blob": …}`, to be had from `/runs/{run}/blobs/{digest}`.
    """
    return call.gateway.teller.tell(run.id, values=call.query.values == "full")


@noun.get("/runs/{run}/children", permission="runs:read")
def children(call: Call[ListChildren, Nothing], run: RunHead) -> Page[ChildView]:
    """The runs that this run started, newest first, each with the step and the item that it is for."""
    wanted = RunFilter(parent=run.id, children=True, states=[RunState[state.upper()] for state in call.query.state])
    return child_page(call.gateway, call.workspace, wanted, call.query.cursor, call.query.limit)


@noun.get("/runs/{run}/flow", permission="flows:read", etag=True)
def show_flow(call: Call[Nothing, Nothing], run: RunHead) -> RunFlow:
    """The flow that the run went through, in the very version, even if the flow was deleted since."""
    gateway = call.gateway
    body = gateway.store.flows.version(run.version).body
    return RunFlow(
        flow=shown(gateway, call.identity, gateway.names.flow(run.flow).workspace, body),
        path=[name for name in run.place.split("/") if name],
        ports=gateway.teller.ports(run),
    )


@noun.get("/runs/{run}/compare/{other}", permission="runs:read")
def compare(call: Call[Nothing, Nothing], run: RunHead, other: RunIdText) -> RunComparison:
    """Two runs, step by step: where their states and values differ."""
    second, workspace = look_up(call.gateway, call.identity, "runs:read", RunHead, other)
    require(call.identity, "runs:read", workspace)
    return compare_runs(call.gateway, run, second)


@noun.post("/runs/{run}/cancel", permission="runs:control", errors=(409, 503), audit="run.cancel")
def cancel(call: Call[Nothing, Nothing], run: RunHead) -> None:
    """End a run under way; the work of its steps is ended too."""
    call.note(to_text(run.id))
    cancel_run(call, run)


@noun.post("/runs/{run}/replay", permission="runs:start", status=202, errors=(409, 503), audit="run.replay", once=True)
def replay(call: Call[Nothing, ReplayFrom], run: RunHead) -> Replayed:
    """Run again from a step: what led there is taken over, the step gets its old input or the given payload."""
    call.note(to_text(run.id), start=call.body.start, edited=call.body.payload is not UNSET)
    return Replayed(replay_run(call, run, call.body.start, call.body.payload, call.body.version))


@noun.post("/runs/bulk", permission="runs:control", errors=(503,), audit="run.bulk", anywhere=True)
def bulk(call: Call[Nothing, Bulk]) -> BulkResult:
    """Cancel or replay many runs. What cannot be done with one of them stops no other."""
    work: Callable[[RunHead], str] = lambda run: cancel_run(call, run)  # noqa: E731  # one of two, chosen here
    permission = "runs:control"
    if call.body.action == "replay":
        work, permission = lambda run: replay_run(call, run, "", UNSET, call.body.version), "runs:start"
    result = for_each_run(call, call.body.runs, permission, work)
    call.note(counted(len(result.done), "run"), action=call.body.action, runs=result.done[:50])
    return result
