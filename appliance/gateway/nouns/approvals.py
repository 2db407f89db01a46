"""Approvals: what waits for a person's word, and unverified steps that wait for a decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from appliance.gateway.answers import plain
from appliance.gateway.common import Body, InWorkspace
from appliance.gateway.nouns.steps import NodeId
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.roles import EVERYWHERE
from appliance.store.history import RunHead
from appliance.store.records import Page
from appliance.store.runids import to_text

noun = Noun("approvals", "Steps that wait for a person: an approval, or a step that a crash cut off in the middle.")


class Asked(Struct, frozen=True, kw_only=True):
    """One question.

    ``name`` is the step's name. ``kind`` is ``approval`` (answer with one of ``ask.choices``) or ``unverified``
    (decide: retry, skip or fail). ``until`` is its deadline, ``payload`` what the step works on.
    """

    run: str
    flow: str
    workspace: str
    node: str
    name: str
    kind: str
    ask: dict[str, Any]
    until: float | None
    payload: Any


class Word(Body, frozen=True):
    """A person's answer."""

    answer: Annotated[str, Meta(min_length=1, max_length=200, description="One of the choices")]
    note: Annotated[str, Meta(max_length=2000, description="Kept with the step")] = ""


class Decision(Body, frozen=True):
    """What becomes of a step of which nobody knows whether it had its effect."""

    decision: Literal["retry", "skip", "fail"]


@noun.get("/approvals", permission="runs:read", errors=(503,))
def list_approvals(call: Call[InWorkspace, Nothing]) -> Page[Asked]:
    """All questions that stand."""
    found: Sequence[dict[str, Any]] = call.gateway.call("waiting")
    mine = [asked for asked in found if call.workspace in (EVERYWHERE, asked["workspace"])]
    return Page([Asked(**plain(asked)) for asked in mine])


@noun.post("/approvals/{run}/{node}/answer", permission="approvals:answer", errors=(409, 503), audit="approval.answer")
def answer(call: Call[Nothing, Word], run: RunHead, node: NodeId) -> None:
    """Answer an approval; the run goes on once the answer is on disk."""
    call.note(to_text(run.id), node=node, answer=call.body.answer, note=call.body.note)
    body, by = call.body, call.identity.label
    call.gateway.call("answer", run=to_text(run.id), node=node, answer=body.answer, note=body.note, by=by)


@noun.post("/approvals/{run}/{node}/decide", permission="approvals:answer", errors=(409, 503), audit="approval.decide")
def decide(call: Call[Nothing, Decision], run: RunHead, node: NodeId) -> None:
    """Decide about an unverified step."""
    call.note(to_text(run.id), node=node, decision=call.body.decision)
    by = call.identity.label
    call.gateway.call("decide", run=to_text(run.id), node=node, decision=call.body.decision, by=by)
