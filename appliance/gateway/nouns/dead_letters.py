"""Dead letters: runs that used up their retries, and events that no run could be made of."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta

from appliance.contracts import FlowError
from appliance.engine.states import Letter
from appliance.gateway.common import Body, Paged, RunIdText
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.run_actions import BulkResult, Replayed, ReplayFrom, for_each_run, replay_run
from appliance.gateway.run_list import run_page
from appliance.gateway.run_views import RunStory, RunView
from appliance.store.errors import NotFound
from appliance.store.history import RunFilter, RunHead
from appliance.store.records import Page
from appliance.store.runids import to_text
from appliance.wording import counted

noun = Noun("dead_letters", "Runs that failed for good stay on this list until somebody replays or discards them.")

Reason = Annotated[str, Meta(min_length=1, max_length=1000, description="Why it needs no replay")]


class ListLetters(Paged, frozen=True):
    """Which of them."""

    flow: Annotated[list[str], Meta(max_length=100, description="Only of these flows (ids)")] = []
    letter: Annotated[Literal["open", "replayed", "discarded"], Meta(description="Where they stand")] = "open"


class Discard(Body, frozen=True):
    """Take it off the list."""

    reason: Reason


class BulkLetters(Body, frozen=True):
    """What to do with many of them."""

    action: Literal["replay", "discard"]
    runs: Annotated[list[RunIdText], Meta(min_length=1, max_length=500)]
    reason: Annotated[str, Meta(max_length=1000, description="Needed to discard")] = ""
    version: Annotated[Literal["same", "live"], Meta(description="For a replay")] = "same"


class NoLetter(FlowError):
    """The run is not (or no longer) an open dead letter."""

    id = "conflict"
    retryable = False


@noun.get("/dead-letters", permission="dead_letters:read")
def list_letters(call: Call[ListLetters, Nothing]) -> Page[RunView]:
    """Dead letters, newest first."""
    wanted = RunFilter(letter=Letter[call.query.letter.upper()])
    return run_page(call.gateway, call.workspace, call.query.flow, wanted, call.query.cursor, call.query.limit)


@noun.get("/dead-letters/{run}", permission="dead_letters:read", etag=True)
def show(call: Call[Nothing, Nothing], run: RunHead) -> RunStory:
    """What happened, step by step."""
    if run.letter == Letter.NONE:
        raise NotFound(f"run {to_text(run.id)} is no dead letter")
    return call.gateway.teller.tell(run.id, values=True)


@noun.post(
    "/dead-letters/{run}/replay",
    permission="dead_letters:write",
    status=202,
    errors=(409, 503),
    audit="dead_letter.replay",
    once=True,
)
def replay(call: Call[Nothing, ReplayFrom], run: RunHead) -> Replayed:
    """Run it again, from any step, with the payload edited; the letter counts as replayed then."""
    _check_open(run)
    call.note(to_text(run.id), start=call.body.start, edited=call.body.payload is not UNSET)
    return Replayed(replay_run(call, run, call.body.start, call.body.payload, call.body.version))


@noun.post(
    "/dead-letters/{run}/discard", permission="dead_letters:write", errors=(409, 503), audit="dead_letter.discard"
)
def discard(call: Call[Nothing, Discard], run: RunHead) -> None:
    """Take it off the list, with a reason that is kept."""
    call.note(to_text(run.id), reason=call.body.reason)
    _discard(call, run, call.body.reason)


@noun.post(
    "/dead-letters/bulk", permission="dead_letters:write", errors=(503,), audit="dead_letter.bulk", anywhere=True
)
def bulk(call: Call[Nothing, BulkLetters]) -> BulkResult:
    """Replay or discard many. What cannot be done with one of them stops no other."""
    body = call.body
    if body.action == "discard" and not body.reason.strip():
        raise ReasonNeeded("reason: say why they need no replay")

    def work(run: RunHead) -> str:
        if body.action == "discard":
            return _discard(call, run, body.reason)
        _check_open(run)
        return replay_run(call, run, "", UNSET, body.version)

    result = for_each_run(call, body.runs, "dead_letters:write", work)
    call.note(
        counted(len(result.done), "run"),
        action=body.action,
        reason=body.reason,
        runs=result.done[:50],
    )
    return result


class ReasonNeeded(FlowError):
    """Nothing is discarded without a word."""

    id = "invalid"
    retryable = False


def _check_open(run: RunHead) -> None:
    if run.letter != Letter.OPEN:
        raise NoLetter(f"run {to_text(run.id)} is no open dead letter (it is {Letter(run.letter).name.lower()})")


def _discard(call: Call[Nothing, Discard] | Call[Nothing, BulkLetters], run: RunHead, reason: str) -> str:
    _check_open(run)
    by, letter = call.identity.label, int(Letter.DISCARDED)
    call.gateway.call("letter", run=to_text(run.id), letter=letter, by=by, reason=reason)
    return ""
