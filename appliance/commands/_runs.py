"""Runs as commands read them: found in the history, folded into steps, told as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from appliance.commands import _output as out
from appliance.commands._session import Session
from appliance.contracts import Node
from appliance.engine import trace
from appliance.engine.flow import parse
from appliance.engine.plan import FlowPlan
from appliance.engine.states import Letter, RunState
from appliance.engine.steps_view import Step, story_of
from appliance.engine.trace import Record
from appliance.kernel.blobs import make_blobs
from appliance.store.errors import NotFound
from appliance.store.history import History, RunDetail, RunHead
from appliance.store.runids import to_text

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.registry import Registry
    from appliance.store.metadata import Store

_VALUE = "application/x-flowork-value"
EXIT = {
    RunState.SUCCEEDED: 0,
    RunState.FAILED: 10,
    RunState.DEAD: 11,
    RunState.CANCELLED: 12,
    RunState.SKIPPED: 13,
}
UNDER_WAY = 14


class Story(Struct, frozen=True):
    """A run with its steps. ``unreadable`` says why there are none (its version or a plug-in is gone)."""

    head: RunHead
    event: dict[str, Any]
    payload: Any
    steps: list[Step]
    output: Any = None
    notes: list[str] = []
    letter_note: tuple[int, str, str] | None = None
    unreadable: str = ""

    @property
    def state(self) -> RunState:
        """The run's state."""
        return RunState(self.head.state)


class _AnyNode(Node[Any]):
    """Stands for a node kind that is not installed any more, so that its old runs can be looked at."""


class _Kinds(dict[str, Node[Any]]):
    def __missing__(self, name: str) -> Node[Any]:
        return _AnyNode()


class _Catalog:
    """The installed kinds, and a stand-in for every other."""

    def __init__(self, registry: Registry) -> None:
        self.nodes = _Kinds(registry.nodes)
        self.triggers = registry.triggers


class Reader:
    """Reads runs of one data folder (which may be a scratch folder). Plans are made once."""

    def __init__(self, data: Path, store: Store, history: History, registry: Registry) -> None:
        self._store = store
        self._history = history
        self._catalog = _Catalog(registry)
        self._blobs = make_blobs(data)
        self._plans: dict[int, FlowPlan] = {}
        self._flows: dict[int, tuple[str, str, str]] = {}
        self._versions: dict[int, int | None] = {}

    def story(self, run: int) -> Story | None:
        """A run with everything; None if there is no such run (yet)."""
        detail = self._history.detail(run)
        if detail is None:
            return None
        try:
            return self._told(detail)
        except (NotFound, KeyError, msgspec.ValidationError) as exc:
            reason = exc.message if isinstance(exc, NotFound) else f"its flow cannot be read any more: {exc}"
            _, event, payload, _ = detail.event
            return Story(detail.head, event, self._value(payload), [], unreadable=reason)

    def _told(self, detail: RunDetail) -> Story:
        head = detail.head
        _, event, payload, _ = detail.event
        plan = self._plan(head.version).graphs[head.place]
        payload, start = self._value(payload), None
        if head.origin is not None and event.get("replay_from"):
            start, payload = (str(event["replay_from"]), payload), self._value(event.get("replay_payload"))
        records = [self._whole(record) for record in detail.records]
        over = not RunState(head.state).under_way
        told = story_of(plan, payload, records, event=event, start=start, place=head.place, ended=over)
        notes = [str(record.value) for record in records if record.kind == trace.NOTE]
        return Story(head, event, payload, told.steps, told.output, notes, detail.letter_note)

    def _plan(self, version: int) -> FlowPlan:
        if version not in self._plans:
            self._plans[version] = FlowPlan(parse(self._store.flows.version(version).body), self._catalog)
        return self._plans[version]

    def _whole(self, record: Record) -> Record:
        """A record with the values that were put aside for their size."""
        value, extra = self._value(record.value), record.extra
        if extra:
            extra = {name: self._value(item) for name, item in extra.items()}
        return msgspec.structs.replace(record, value=value, extra=extra)

    def _value(self, value: Any) -> Any:
        if not (isinstance(value, dict) and value.get("type") == _VALUE and "$blob" in value):
            return value
        return trace.unpack(self._blobs.get(value))

    def flow(self, num: int) -> tuple[str, str, str]:
        """Id, name and workspace of a run's flow, also of a deleted one."""
        if num not in self._flows:
            try:
                flow = self._store.flows.by_num(num)
                self._flows[num] = (flow.id, flow.name, flow.workspace)
            except NotFound:
                self._flows[num] = (f"flow-{num}", "lost flow", "")
        return self._flows[num]

    def version(self, version: int) -> int | None:
        """The number of a run's version within its flow."""
        if version not in self._versions:
            try:
                self._versions[version] = self._store.flows.version(version).number
            except NotFound:
                self._versions[version] = None
        return self._versions[version]

    def head_view(self, head: RunHead) -> dict[str, Any]:
        """A run without its data, as JSON. Times are Unix seconds."""
        flow, name, workspace = self.flow(head.flow)
        return {
            "id": to_text(head.id),
            "flow": flow,
            "flow_name": name,
            "workspace": workspace,
            "version": self.version(head.version),
            "place": head.place,
            "state": RunState(head.state).label,
            "trigger": head.trigger,
            "accepted": head.accepted / 1e6,
            "finished": None if head.finished is None else head.finished / 1e6,
            "took": took(head),
            "error": head.error,
            "parent": None if head.parent is None else to_text(head.parent),
            "origin": None if head.origin is None else to_text(head.origin),
            "letter": Letter(head.letter).name.lower(),
        }

    def story_view(self, story: Story) -> dict[str, Any]:
        """A run with its steps, as JSON."""
        view = self.head_view(story.head)
        view |= {"event": story.event, "payload": story.payload, "notes": story.notes}
        if story.state is RunState.SUCCEEDED:
            view["output"] = story.output
        if story.letter_note is not None:
            at, who, reason = story.letter_note
            view["letter_note"] = {"at": at / 1e6, "who": who, "reason": reason}
        if story.unreadable:
            view["fault"] = story.unreadable
        return {**view, "steps": [step_view(step, story.head.accepted) for step in story.steps]}


def step_view(step: Step, accepted: int) -> dict[str, Any]:
    """A step as JSON, as the API has it: moments in Unix seconds, lengths in seconds. ``accepted``: the run's."""
    view: dict[str, Any] = msgspec.to_builtins(step, enc_hook=str)
    if step.started is not None:
        view["started"] = (accepted + step.started) / 1e6
    if step.took is not None:
        view["took"] = step.took / 1e6
    for one in view["tries"]:
        one["at"], one["took"] = (accepted + one["at"]) / 1e6, one["took"] / 1e6
    return view


def reader(session: Session) -> Reader:
    """The reader of the session's data folder."""
    return Reader(session.need_engine(), session.store, session.history, session.registry)


def took(head: RunHead) -> float | None:
    """Seconds from acceptance to the end."""
    return None if head.finished is None else (head.finished - head.accepted) / 1e6


def error_line(error: Any) -> str:
    """An error as one line: where, and what."""
    if not isinstance(error, dict):
        return out.one_line(error, 300)
    where = f"step {error['node']}: " if error.get("node") else ""
    return out.one_line(f"{where}{error.get('message', '')}", 300)
