"""Named events, for steps that wait for one."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.gateway.common import Body, InWorkspace, one_workspace
from appliance.gateway.routing import Call, Noun
from appliance.store.errors import NotFound

noun = Noun("events", "A named event wakes the steps (`wait_event`) that wait for it; it starts no run.")


class NewEvent(Body, frozen=True):
    """What happened."""

    name: Annotated[str, Meta(min_length=1, max_length=200, description="The name that steps wait for")]
    payload: Annotated[Any, Meta(description="What they get")] = None
    flow: Annotated[str | None, Meta(description="Only in the flow with this id")] = None


class Woken(Struct, frozen=True):
    """How many steps have gone on."""

    woken: int


@noun.post(
    "/events",
    permission="events:write",
    errors=(404, 503),
    unaudited="the steps that it wakes keep it",
    once=True,
)
def send(call: Call[InWorkspace, NewEvent]) -> Woken:
    """Wake the steps that wait for an event of this name, in one flow or in all of the workspace."""
    workspace, body = one_workspace(call.workspace), call.body
    if body.flow and call.gateway.store.flows.get(body.flow).workspace != workspace:
        raise NotFound(f"there is no flow {body.flow!r} in workspace {workspace!r}")
    params = {"workspace": workspace, "name": body.name, "payload": body.payload, "flow": body.flow}
    return Woken(call.gateway.call("signal", **params, meta={"by": call.identity.label})["woken"])
