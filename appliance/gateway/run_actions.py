"""What can be done with runs, one or many, from the list of runs as from the dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from appliance.contracts import FlowError
from appliance.gateway.common import Body
from appliance.gateway.places import look_up
from appliance.gateway.problems import error_id_of
from appliance.gateway.routing import Call
from appliance.security.roles import require
from appliance.store.history import RunHead
from appliance.store.runids import to_text


class ReplayFrom(Body, frozen=True):
    """Where to begin again, and with what."""

    start: Annotated[str, Meta(max_length=64, description="The step's node id; empty: the beginning")] = field(
        default="", name="from"
    )
    payload: Annotated[Any | UnsetType, Meta(description="Instead of what came in; left out: the same again")] = UNSET
    version: Annotated[Literal["same", "live"], Meta(description="On the run's version or on the live one")] = "same"


class Replayed(Struct, frozen=True):
    """The new run."""

    run: str


class BulkFailure(Struct, frozen=True):
    """Why it could not be done with one of them."""

    run: str
    id: str
    message: str


class BulkResult(Struct, frozen=True):
    """``done`` are the runs it was done with; ``made`` the new runs, in the same order, of a replay."""

    done: list[str]
    made: list[str]
    failed: list[BulkFailure]


def cancel_run(call: Call[Any, Any], run: RunHead) -> str:
    """Have the kernel end a run; makes no other, so the answer is empty."""
    call.gateway.call("cancel", run=to_text(run.id), by=call.identity.label)
    return ""


def replay_run(call: Call[Any, Any], run: RunHead, start: str, payload: Any, version: str) -> str:
    """Have the kernel replay a run; the new run's id."""
    given = {} if payload is UNSET else {"payload": payload}
    params = {"run": to_text(run.id), "from": start, "version": version, "by": call.identity.label, **given}
    return str(call.gateway.call("replay", **params)["run"])


def for_each_run(call: Call[Any, Any], runs: list[str], permission: str, work: Callable[[RunHead], str]) -> BulkResult:
    """Do something with many runs, each where the caller may."""
    result = BulkResult([], [], [])
    for text in dict.fromkeys(runs):
        try:
            head, workspace = look_up(call.gateway, call.identity, permission, RunHead, text)
            require(call.identity, permission, workspace)
            made = work(head)
        except FlowError as exc:
            result.failed.append(BulkFailure(text, error_id_of(exc), call.gateway.scrub(exc.message)))
        else:
            result.done.append(text)
            if made:
                result.made.append(made)
    return result
