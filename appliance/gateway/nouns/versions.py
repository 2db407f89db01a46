"""Versions: every save of a flow, and what lies between two of them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from appliance.engine.diff import FlowDiff, diff
from appliance.gateway.common import PartOnly, Query, VersionNumber, number_in, numbered_page
from appliance.gateway.flow_views import VersionDetail, VersionView, shown, version_detail, version_view
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.records import Flow, Page

noun = Noun("versions", "A version is one immutable save of a flow. Runs name theirs for ever.")


class Between(Query, frozen=True):
    """Which two versions."""

    old: Annotated[VersionNumber, Meta(description="The older version's number")] = field(name="from")
    new: Annotated[VersionNumber, Meta(description="The newer version's number")] = field(name="to")


@noun.get("/flows/{flow}/versions", permission="flows:read")
def list_versions(call: Call[PartOnly, Nothing], flow: Flow) -> Page[VersionView]:
    """A flow's versions, newest first."""
    limit = call.query.limit
    found = call.gateway.store.flows.versions(flow.id, number_in(call.query.cursor), limit)
    items = [version_view(version, flow.live_number) for version in found]
    more = len(found) == limit and found[-1].number > 1
    return numbered_page(items, found[-1].number if more else None)


@noun.get("/flows/{flow}/versions/{number}", permission="flows:read", etag=True)
def show(call: Call[Nothing, Nothing], flow: Flow, number: VersionNumber) -> VersionDetail:
    """A version as it was saved."""
    version = call.gateway.store.flows.numbered(flow.id, number)
    return version_detail(call.gateway, call.identity, flow, version)


@noun.get("/flows/{flow}/diff", permission="flows:read", etag=True)
def compare(call: Call[Between, Nothing], flow: Flow) -> FlowDiff:
    """What changed between two versions, told by nodes, edges, triggers and settings."""
    old, new = (
        shown(call.gateway, call.identity, flow.workspace, call.gateway.store.flows.numbered(flow.id, number).body)
        for number in (call.query.old, call.query.new)
    )
    return diff(old, new)
