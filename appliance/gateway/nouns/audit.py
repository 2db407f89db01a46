"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.gateway.common import Paged, number_in, numbered_page
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.security.audit import VerifyResult
from appliance.security.roles import EVERYWHERE
from appliance.store.audit import AuditRow
from appliance.store.records import Page

noun = Noun(
    "audit", "Every change that somebody made, in a chain in which each entry holds the hash of the one before."
)


class ListEntries(Paged, frozen=True):
    """Which entries."""

    workspace: Annotated[str, Meta(max_length=63, description="`*` is all")] = EVERYWHERE
    actor: Annotated[str, Meta(max_length=200, description="Only by this one, as `user:0x…`")] = ""
    action: Annotated[str, Meta(max_length=100, description="Only this action, or what lies under it: `flow`")] = ""


class EntryView(Struct, frozen=True, kw_only=True):
    """One entry; ``at`` in Unix seconds."""

    seq: int
    at: float
    actor: str
    action: str
    target: str
    workspace: str
    detail: Any
    hash: str


@noun.get("/audit", permission="audit:read")
def list_entries(call: Call[ListEntries, Nothing]) -> Page[EntryView]:
    """Entries, newest first."""
    query = call.query
    found = call.gateway.store.audit.page(
        number_in(query.cursor),
        query.limit,
        actor=query.actor,
        action=query.action,
        workspace=None if query.workspace == EVERYWHERE else query.workspace,
    )
    more = len(found) == query.limit and found[-1].seq > 1
    return numbered_page([_view(row) for row in found], found[-1].seq if more else None)


@noun.get("/audit/verify", permission="audit:read")
def verify(call: Call[Nothing, Nothing]) -> VerifyResult:
    """Walk the whole chain; names the first entry that is not as it was written."""
    return call.gateway.audit.verify()


def _view(row: AuditRow) -> EntryView:
    return EntryView(
        seq=row.seq,
        at=row.time / 1e6,
        actor=row.actor,
        action=row.action,
        target=row.target,
        workspace=row.workspace,
        detail=msgspec.json.decode(row.detail) if row.detail else {},
        hash=row.hash,
    )
