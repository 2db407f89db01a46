"""Pages of runs as a caller may see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from appliance.gateway.common import number_in
from appliance.gateway.run_views import ChildView, RunView, run_view
from appliance.gateway.services import Gateway
from appliance.security.roles import EVERYWHERE
from appliance.store.errors import NotFound
from appliance.store.history import RunFilter, RunHead
from appliance.store.names import encode_cursor
from appliance.store.records import Page
from appliance.store.runids import from_text

#: Pages of the history that are looked through for one page of a workspace that has few of the runs.
_LOOKS = 20


def run_page(
    gateway: Gateway, workspace: str, flows: Iterable[str], wanted: RunFilter, cursor: str, limit: int
) -> Page[RunView]:
    """A page of the runs of a workspace (``*``: of all), newest first; it may be short and have a next one."""
    names = list(flows)
    if names:
        nums = _nums(gateway, workspace, names)
        if not nums:
            return Page([])
        wanted = msgspec.structs.replace(wanted, flows=nums)
    before = number_in(cursor)
    found: list[RunHead] = []
    for _ in range(_LOOKS):
        page = gateway.history.page(wanted, before, limit)
        for head in page.items:
            if _visible(gateway, workspace, head):
                found.append(head)
                if len(found) == limit:
                    more = page.next is not None or head is not page.items[-1]
                    return _page(gateway, found, head.id if more else None)
        before = page.next
        if before is None:
            break
    return _page(gateway, found, before)


def child_page(gateway: Gateway, workspace: str, wanted: RunFilter, cursor: str, limit: int) -> Page[ChildView]:
    """A page of the runs that one run started, each with what it was started for."""
    page = run_page(gateway, workspace, (), wanted, cursor, limit)
    return Page([_child(gateway, view) for view in page.items], page.next)


def _child(gateway: Gateway, view: RunView) -> ChildView:
    event = gateway.history.event(from_text(view.id)) or {}
    fields = msgspec.structs.asdict(view)
    return ChildView(**fields, node=event.get("node", ""), index=event.get("index", 0), attempt=event.get("try", 1))


def _page(gateway: Gateway, heads: list[RunHead], below: int | None) -> Page[RunView]:
    return Page([run_view(gateway.names, head) for head in heads], "" if below is None else encode_cursor(below))


def _visible(gateway: Gateway, workspace: str, head: RunHead) -> bool:
    return workspace == EVERYWHERE or gateway.names.flow(head.flow).workspace == workspace


def _nums(gateway: Gateway, workspace: str, names: Iterable[str]) -> list[int]:
    """The numbers of flows; one that does not exist (here) has no runs."""
    found: list[Any] = []
    for name in names:
        try:
            flow = gateway.store.flows.get(name)
        except NotFound:
            continue
        if workspace in (EVERYWHERE, flow.workspace):
            found.append(flow.num)
    return found
