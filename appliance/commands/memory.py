"""``flowork memory``: what flows have remembered."""

from __future__ import annotations

import time
from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

command = noun("memory", "The episodic memory: what flows have remembered, and how it ended.", default="list")

_limit = click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many.")
_flow = click.option("--flow", default="", help="Only what this flow (id) has remembered.")
_outcome = click.option("--outcome", default="", help="Only what ended so.")
_tags = click.option("--tag", "tags", multiple=True, help="Only with this tag; may be given several times.")


@leaf("flowork memory list", "flowork memory list --outcome failed --json", of=command, name="list")
@_limit
@_flow
@_outcome
@_tags
@given.workspace_option
def list_(session: Session, limit: int, flow: str, outcome: str, tags: tuple[str, ...], workspace: str) -> None:
    """List what was remembered last."""
    _show(session, _asked(session, workspace, limit=limit, flow=flow, outcome=outcome, tags=list(tags)))


@leaf('flowork memory search "the pump ran dry"', of=command)
@click.argument("text")
@_limit
@_flow
@_outcome
@_tags
@given.workspace_option
def search(
    session: Session, text: str, limit: int, flow: str, outcome: str, tags: tuple[str, ...], workspace: str
) -> None:
    """Search by meaning (where the engine has a model for embeddings) and by words; the best fit first."""
    asked = {"query": text, "limit": limit, "flow": flow, "outcome": outcome, "tags": list(tags)}
    _show(session, _asked(session, workspace, **asked))


@leaf("flowork memory show", of=command)
@given.workspace_option
def show(session: Session, workspace: str) -> None:
    """Say how much is remembered, and by which model it can be found."""
    told = session.call("memory_summary", workspace=workspace)
    if session.as_json:
        out.emit(told)
        return
    since = f" since {out.moment(told['oldest'])}" if told["oldest"] is not None else ""
    out.say(f"{told['episodes']:,} episodes{since}; {told['bytes'] / 1e6:.1f} MB on disk")
    for model, count in told["vectors"].items():
        out.say(f"    {count:,} embedded by {model}")
    if told["episodes"] and not told["vectors"]:
        out.say("    found by words alone: no model for embeddings has been used")
    for outcome, count in told["outcomes"].items():
        out.say(f"    {count:,} {outcome or 'without an outcome'}")


@leaf(
    "flowork memory forget 17 18",
    "flowork memory forget --older 90d --outcome failed",
    "flowork memory forget --all --yes",
    of=command,
)
@click.argument("numbers", type=int, nargs=-1)
@click.option("--older", type=given.Length(), help="What was remembered longer ago than this, such as 90d.")
@click.option("--all", "everything", is_flag=True, help="Everything in the workspace.")
@_flow
@_outcome
@_tags
@given.workspace_option
@given.yes_option
def forget(
    session: Session,
    numbers: tuple[int, ...],
    older: float | None,
    everything: bool,
    flow: str,
    outcome: str,
    tags: tuple[str, ...],
    workspace: str,
    yes: bool,
) -> None:
    """Forget episodes for good: by number, or all that fits the options together."""
    before = None if older is None else time.time() - older
    narrow = {"flow": flow, "outcome": outcome, "tags": list(tags), "before": before, "ids": list(numbers)}
    if everything == any(narrow.values()):
        raise click.UsageError("Say what is to be forgotten: numbers, --older, --outcome, --tag, --flow, or --all.")
    if not numbers:
        given.confirmed(yes, "Forget everything in the memory?" if everything else "Forget all that fits?")
    gone = session.call("memory_forget", 60.0, workspace=workspace, **narrow)
    session.audit("memory.forget", workspace, {**narrow, **gone}, workspace=workspace)
    session.done(gone, f"forgot {gone['forgotten']:,}")


def _asked(session: Session, workspace: str, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.call("memory_recall", 60.0, workspace=workspace, **params)
    return found


def _show(session: Session, found: list[dict[str, Any]]) -> None:
    if session.as_json:
        out.emit({"items": found})
    elif not found:
        out.say("nothing fits; flows remember with the node `memory`")
    else:
        scored = any(one.get("score") for one in found)
        heads = ("number", "when", *(("score",) if scored else ()), "outcome", "text")
        rows = [
            (
                str(one["id"]),
                out.moment(one["time"]),
                *((f"{one.get('score', 0):.2f}",) if scored else ()),
                one.get("outcome", ""),
                out.one_line(one["text"], 100),
            )
            for one in found
        ]
        out.table(heads, rows)
