"""Runs by their ids, and what they name by number: flows and versions, remembered for as long as they cannot change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from appliance.store.errors import NotFound
from appliance.store.history import History, RunHead
from appliance.store.metadata import Store
from appliance.store.records import Flow
from appliance.store.runids import from_text

V = TypeVar("V")
#: Seconds for which a flow's name is believed; its id and workspace never change.
_FRESH = 2.0
_KEPT = 4096
#: The workspace that nobody has a role in: a flow whose row is lost is shown to those who may see all.
NOWHERE = "-"


class FlowName(NamedTuple):
    """What there is to know of a run's flow."""

    id: str
    name: str
    workspace: str
    deleted: bool


class Names:
    """Flows by number, version numbers by version id. Safe from any thread. ``clock``: monotonic seconds."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._flows: OrderedDict[int, tuple[float, FlowName]] = OrderedDict()
        self._numbers: OrderedDict[int, int] = OrderedDict()
        self._by_id: dict[str, tuple[float, str]] = {}

    def flow(self, num: int) -> FlowName:
        """The flow of a number, also a deleted one."""
        now = self._clock()
        kept = self._flows.get(num)
        if kept is not None and now - kept[0] < _FRESH:
            return kept[1]
        try:
            name = _name(self._store.flows.by_num(num))
        except NotFound:
            name = FlowName(f"flow-{num}", "lost flow", NOWHERE, True)
        _keep(self._flows, num, (now, name))
        return name

    def workspace_of(self, flow_id: str) -> str:
        """The workspace of a flow by its id; :data:`NOWHERE` for one that is gone."""
        now = self._clock()
        kept = self._by_id.get(flow_id)
        if kept is not None and now - kept[0] < _FRESH:
            return kept[1]
        try:
            workspace = self._store.flows.get(flow_id).workspace
        except NotFound:
            workspace = kept[1] if kept is not None else NOWHERE
        if len(self._by_id) > _KEPT:
            self._by_id.clear()
        self._by_id[flow_id] = (now, workspace)
        return workspace

    def number(self, version: int) -> int | None:
        """The number, within its flow, of a version id; None for one that is lost."""
        known = self._numbers.get(version)
        if known is not None:
            return known
        try:
            number = self._store.flows.version(version).number
        except NotFound:
            return None
        _keep(self._numbers, version, number)
        return number


def no_run(text: str) -> NotFound:
    """The error for an id that names no run (any more)."""
    return NotFound(f"there is no run {text[:40]!r}; it may have been too old to be kept")


def head_of(history: History, text: str) -> RunHead:
    """A run by its id. Raises ``NotFound``."""
    try:
        head = history.head(from_text(text))
    except ValueError:
        head = None
    if head is None:
        raise no_run(text)
    return head


def _name(flow: Flow) -> FlowName:
    return FlowName(flow.id, flow.name, flow.workspace, flow.deleted is not None)


def _keep(cache: OrderedDict[int, V], key: int, value: V) -> None:
    cache[key] = value
    while len(cache) > _KEPT:
        try:
            cache.popitem(last=False)
        except KeyError:  # another thread was as quick
            return
