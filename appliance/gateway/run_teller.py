"""Telling a whole run: from the journal's records to steps and values that an answer can hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from appliance.contracts import Blobs, Node, NodeError
from appliance.engine import trace
from appliance.engine.flow import parse
from appliance.engine.plan import FlowPlan, Plan, PlannedNode
from appliance.engine.states import RunState
from appliance.engine.steps_view import Step, Story
from appliance.engine.trace import Record
from appliance.engine.validate import ERROR_PORT
from appliance.gateway.answers import plain
from appliance.gateway.naming import Names
from appliance.gateway.run_views import LetterNote, RecordView, RunStory, StepView, TryView, run_fields
from appliance.registry import Registry
from appliance.store.errors import NotFound
from appliance.store.history import History, RunDetail, RunHead
from appliance.store.metadata import Store
from appliance.store.runids import to_text

VALUE_TYPE = "application/x-flowork-value"
#: Bytes of one value that was put aside, and of all of an answer, that are fetched for it.
LONGEST_VALUE = 1_000_000
LONGEST_ANSWER = 4_000_000
_PLANS = 32
#: Kinds of records whose value a step shows as its output.
_OUTPUTS = {trace.DONE, trace.SAME, trace.SEEDED}


class _AnyNode(Node[Any]):
    """Stands for a node kind that is not installed any more, so that old runs can be looked at."""


class _OldKinds(dict[str, Node[Any]]):
    def __missing__(self, name: str) -> Node[Any]:
        return _AnyNode()


class _OldCatalog:
    """The installed kinds, and a stand-in for every other."""

    def __init__(self, registry: Registry) -> None:
        self.nodes = _OldKinds(registry.nodes)
        self.triggers = registry.triggers


class RunTeller:
    """Tells runs; keeps the plans of the versions it has seen. Safe from any thread.

    ``registry`` is asked for once a run is told: scanning the plug-ins takes a while.
    """

    def __init__(
        self, store: Store, history: History, names: Names, blobs: Blobs, registry: Callable[[], Registry]
    ) -> None:
        self._store = store
        self._history = history
        self._names = names
        self._blobs = blobs
        self._registry = registry
        self._plans: OrderedDict[int, FlowPlan] = OrderedDict()

    def plan(self, head: RunHead) -> Plan:
        """The plan of a run's graph. Raises ``NotFound`` if its version cannot be planned any more."""
        plans = self._plans
        found = plans.get(head.version)
        if found is None:
            body = self._store.flows.version(head.version).body
            try:
                found = FlowPlan(parse(body), _OldCatalog(self._registry()))
            except Exception as exc:  # whatever an older release let through
                raise NotFound(f"the version of this run cannot be read any more: {exc}") from exc
            plans[head.version] = found
            if len(plans) > _PLANS:
                plans.pop(next(iter(plans)), None)
        graph = found.graphs.get(head.place)
        if graph is None:
            raise NotFound(f"the version of this run has no part {head.place!r}")
        return graph

    def ports(self, head: RunHead) -> dict[str, list[str]]:
        """The output ports of the nodes of a run's graph. Raises ``NotFound``."""
        return {node.id: _ports(node) for node in self.plan(head).nodes}

    def load(self, run: int) -> RunDetail:
        """A run from the journal. Raises ``NotFound``."""
        try:
            detail = self._history.detail(run)
        except msgspec.DecodeError as exc:
            raise NotFound(f"the records of run {to_text(run)} are damaged: {exc}") from None
        if detail is None:
            raise NotFound(f"there is no run {to_text(run)} any more")
        return detail

    def story(self, detail: RunDetail) -> Story:
        """The run's steps, with values that were put aside as references. Raises ``NotFound``."""
        return detail.story(self.plan(detail.head))

    def tell(self, run: int, *, values: bool) -> RunStory:
        """A run with everything, or with ``values`` False without what went in and came out."""
        detail = self.load(run)
        head, (_, view, payload, item) = detail.head, detail.event
        show = _Values(self._blobs, values)
        fault, steps, output = "", list[Step](), None
        try:
            story = self.story(detail)
            steps, output = story.steps, story.output
        except NotFound as exc:
            fault = exc.message
        done = head.state == RunState.SUCCEEDED
        note = detail.letter_note
        return RunStory(
            **run_fields(self._names, head),
            event={key: plain(value) for key, value in view.items() if values or key != "replay_payload"},
            payload=show(payload),
            item=item,
            output=show(output) if done else UNSET,
            letter_note=None if note is None else LetterNote(note[0] / 1e6, note[1], note[2]),
            steps=[_step_view(step, head.accepted, show) for step in steps],
            records=list(_records(detail, [step.node for step in steps], show)),
            fault=fault,
        )

    def step(self, run: int, node: str) -> StepView:
        """One step with everything. Raises ``NotFound``."""
        detail = self.load(run)
        for step in self.story(detail).steps:
            if step.node == node:
                return _step_view(step, detail.head.accepted, _Values(self._blobs, True))
        raise NotFound(f"there is no step {node!r} in this run's version")


def _ports(node: PlannedNode) -> list[str]:
    """The ports of a node, with those that edges name although its kind (as it is today) has no such port."""
    ports = dict.fromkeys([*node.kind.ports_of(node.spec.config), *(edge.port for edge in node.out)])
    ports.pop(ERROR_PORT, None)
    return [*ports, ERROR_PORT]


class _Values:
    """Makes values fit for an answer; what was put aside is fetched as long as there is room."""

    def __init__(self, blobs: Blobs, shown: bool) -> None:
        self._blobs = blobs
        self._room = LONGEST_ANSWER
        self.shown = shown

    def __call__(self, value: Any) -> Any:
        if not self.shown:
            return UNSET
        if is_reference(value) and value.get("type") == VALUE_TYPE:
            size = value.get("size", 0)
            if isinstance(size, int) and size <= min(LONGEST_VALUE, self._room):
                try:
                    value = trace.unpack(self._blobs.get(value))
                    self._room -= size
                except (NodeError, msgspec.DecodeError):
                    return plain(value)
        return plain(value)

    def inside(self, values: Any) -> Any:
        """The same for each of some named values."""
        if not self.shown or not isinstance(values, Mapping):
            return None
        return {key: self(value) for key, value in values.items()}


def is_reference(value: Any) -> bool:
    """Whether a value stands for a blob."""
    return isinstance(value, dict) and isinstance(value.get("$blob"), str)


def _step_view(step: Step, accepted: int, show: _Values) -> StepView:
    return StepView(
        node=step.node,
        type=step.type,
        name=step.name,
        state=step.state,
        attempts=step.attempts,
        started=None if step.started is None else (accepted + step.started) / 1e6,
        took=None if step.took is None else step.took / 1e6,
        port=step.port,
        input=show(step.input),
        output=show(step.output),
        error=plain(step.error),
        config=show.inside(step.config),
        saw=show.inside(step.saw),
        logs=plain(step.logs) if show.shown else [],
        tries=[
            TryView(one.attempt, (accepted + one.at) / 1e6, one.took / 1e6, plain(one.error), one.again)
            for one in step.tries
        ],
        until=step.until,
        signals=step.signals,
        ask=plain(step.ask),
        items=step.items,
        fired=step.fired,
        where=step.where,
    )


def _records(detail: RunDetail, nodes: list[str], show: _Values) -> Iterator[RecordView]:
    for record in detail.records:
        yield RecordView(
            kind=trace.KINDS.get(record.kind, "unknown"),
            node=_node_of(record, nodes),
            attempt=record.attempt,
            at=(detail.head.accepted + record.at) / 1e6,
            took=record.took / 1e6,
            port=record.port,
            value=UNSET if record.kind in _OUTPUTS else show(record.value),
            extra=None if record.kind in _OUTPUTS or not record.extra else show.inside(record.extra),
        )


def _node_of(record: Record, nodes: list[str]) -> str:
    if record.kind == trace.NOTE:
        return ""
    return nodes[record.node] if record.node < len(nodes) else f"#{record.node}"


def references(value: Any) -> Iterator[Mapping[str, Any]]:
    """All references to blobs in a value."""
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            if is_reference(found):
                yield found
            stack.extend(found.values())
        elif isinstance(found, list):
            stack.extend(found)
