"""Deployments: which version of a flow is live."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from appliance.gateway.common import Body, PartOnly, VersionNumber, number_in, numbered_page
from appliance.gateway.flow_views import SavedFlow, saved_flow
from appliance.gateway.routing import OWN, Call, Nothing, Noun
from appliance.store.records import Flow, Page

noun = Noun("deployments", "Deploying makes a version live: its triggers start runs from then on.")


class Which(Body, frozen=True):
    """Which version."""

    version: Annotated[VersionNumber | None, Meta(description="A version's number")] = None


class Switch(Body, frozen=True):
    """On or off."""

    enabled: bool


class DeploymentView(Struct, frozen=True):
    """One move of a flow's live pointer (version numbers) or of its switch."""

    id: int
    action: str
    before: int | None
    after: int | None
    who: str
    at: float


@noun.post("/flows/{flow}/deploy", permission="flows:deploy", audit=OWN)
def deploy(call: Call[Nothing, Which], flow: Flow) -> SavedFlow:
    """Make a version live (the newest if none is named). Runs under way finish on the version they began on."""
    return saved_flow(call, call.gateway.book.deploy(flow.id, call.body.version, by=call.identity))


@noun.post("/flows/{flow}/rollback", permission="flows:deploy", audit=OWN)
def rollback(call: Call[Nothing, Which], flow: Flow) -> SavedFlow:
    """Make an older version live again: the one that is named, or the one that was live before."""
    return saved_flow(call, call.gateway.book.rollback(flow.id, call.body.version, by=call.identity))


@noun.post("/flows/{flow}/undeploy", permission="flows:deploy", audit=OWN)
def undeploy(call: Call[Nothing, Nothing], flow: Flow) -> SavedFlow:
    """Make no version live: triggers are detached, runs under way finish."""
    return saved_flow(call, call.gateway.book.undeploy(flow.id, by=call.identity))


@noun.post("/flows/{flow}/enable", permission="flows:deploy", audit=OWN)
def enable(call: Call[Nothing, Switch], flow: Flow) -> SavedFlow:
    """Switch a flow's triggers on or off without undeploying it."""
    return saved_flow(call, call.gateway.book.enable(flow.id, call.body.enabled, by=call.identity))


@noun.get("/flows/{flow}/deployments", permission="flows:read")
def deployments(call: Call[PartOnly, Nothing], flow: Flow) -> Page[DeploymentView]:
    """Who moved the flow's live pointer or its switch, latest first."""
    names, limit = call.gateway.names, call.query.limit
    found = call.gateway.store.flows.deployments(flow.id, number_in(call.query.cursor), limit)
    items = [
        DeploymentView(
            move.id,
            move.action,
            None if move.before is None else names.number(move.before),
            None if move.after is None else names.number(move.after),
            move.who,
            move.at,
        )
        for move in found
    ]
    return numbered_page(items, found[-1].id if len(found) == limit else None)
