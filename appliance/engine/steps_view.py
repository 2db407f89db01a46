"""A run told step by step for people: what went into each step, what came out, how often it was tried.

Made from a run's records alone, by the same fold that goes on with a run after a crash; nothing of it is
stored. Times are microseconds since the run was accepted, as in the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from appliance.contracts import ExpressionError
from appliance.engine import trace
from appliance.engine.expressions import Compiled
from appliance.engine.plan import Plan, PlannedNode
from appliance.engine.runner import DEAD, IDLE, READY, Judge, Unfinished, Walk, recover, unjudged
from appliance.engine.trace import Record

#: What an unfinished step is doing, by its last record.
_DOING = {
    trace.RETRY: "retrying",
    trace.INTENT: "running",
    trace.PARKED: "waiting",
    trace.SPAWNED: "waiting",
    trace.UNVERIFIED: "unverified",
    trace.FAILED: "failed",
}


class Try(Struct, frozen=True):
    """One attempt that failed; ``again`` is when the next one was due (Unix seconds)."""

    attempt: int
    at: int
    took: int
    error: Any
    again: float | None = None


class Step(Struct, frozen=True, kw_only=True):
    """One node in one run.

    ``state``: ``pending`` (not its turn yet), ``running``, ``retrying``, ``waiting``, ``unverified``, ``done``,
    ``failed``, ``skipped`` (no path led there), ``kept`` (taken over from the run that this one replays) or
    ``stopped`` (the run ended first). ``fired`` are the numbers of the edges by which the run went on from here,
    ``where`` is the engine that did it if it was another one: ``engine`` (its name), ``id``, ``run`` (there), ``took``
    (microseconds there); of a step that is under way there only name and id are known. What a step does not have is
    left out.
    """

    node: str
    type: str
    name: str
    state: str
    attempts: int = 0
    started: int | None = None
    took: int | None = None
    input: Any | UnsetType = UNSET
    output: Any | UnsetType = UNSET
    port: str = ""
    error: Any = None
    config: Any = None
    saw: Any = None
    logs: list[Any] = []
    tries: list[Try] = []
    until: float | None = None
    signals: list[str] = []
    ask: Any = None
    items: int | None = None
    fired: list[int] = []
    where: Any = None


class Story(Struct, frozen=True):
    """A run's steps in the order of the flow's nodes, and its output so far."""

    steps: list[Step]
    output: Any


class _SeenWalk(Walk):
    """A walk that notes what a step works on at the moment when it becomes ready, and which edges fired."""

    __slots__ = ("fired", "inputs")

    def __init__(self, plan: Plan, payload: Any) -> None:
        super().__init__(plan, payload)
        self.inputs: dict[int, Any] = {}
        self.fired: dict[int, list[int]] = {}

    def start(self) -> list[int]:
        return self._see(super().start())

    def settle(
        self, index: int, port: str, value: Any, judge: Judge = unjudged, fired: Iterable[int] | None = None
    ) -> list[int]:
        ready = super().settle(index, port, value, judge, fired)
        self.fired[index] = self.fired_edges
        return self._see(ready)

    def force_overrides(self) -> None:
        super().force_overrides()
        self._see(list(self.overrides))

    def _see(self, ready: list[int]) -> list[int]:
        for index in ready:
            self.inputs[index] = self.payload_of(index)
        return ready


class _Notes:
    """What the records say of one step beside its end."""

    __slots__ = ("extra", "first", "last", "tries")

    def __init__(self) -> None:
        self.first: Record | None = None
        self.last: Record | None = None
        self.extra: dict[str, Any] = {}
        self.tries: list[Try] = []

    def add(self, record: Record) -> None:
        """Take one record in."""
        self.first = self.first or record
        extra = record.extra or {}
        if record.kind == trace.RETRY:
            self.tries.append(Try(record.attempt, record.at, record.took, record.value, extra.get("again")))
        if record.kind == trace.WOKEN:
            return  # its time and its value are the waker's, not the step's
        logs = [*self.extra.get("logs", []), *extra.get("logs", [])]
        self.extra = {**self.extra, **extra, "logs": logs}
        self.last = record


def story_of(
    plan: Plan,
    payload: Any,
    records: Sequence[Record],
    *,
    event: dict[str, Any] | None = None,
    start: tuple[str, Any] | None = None,
    place: str = "",
    ended: bool,
) -> Story:
    """What became of each node, and what the run has led to.

    ``start`` is the node that a replay began at with its payload; ``payload`` is then what the original run
    had. ``place`` is where in its flow the run's graph is. ``ended``: nothing goes on in the run any more.
    """
    walk = _SeenWalk(plan, payload)
    walk.begin_at(place, event or {})
    if start is not None and start[0] in plan.by_id:
        walk.overrides[plan.by_id[start[0]].index] = start[1]
    # A plan of another version than the records' would be a fault of the caller; a lost node must not end all.
    known = [record for record in records if record.kind == trace.NOTE or record.node < len(plan.nodes)]
    unfinished = recover(walk, known, _judge(walk, event or {}))
    notes: dict[int, _Notes] = {}
    for record in known:
        if record.kind != trace.NOTE:
            notes.setdefault(record.node, _Notes()).add(record)
    steps = [_step(walk, node, notes.get(node.index), unfinished.get(node.index), ended) for node in plan.nodes]
    return Story(steps, walk.result())


def _judge(walk: Walk, event: dict[str, Any]) -> Judge:
    """Edges whose outcome was not kept (a replay on another version) are judged by what the records hold."""

    def judge(compiled: Compiled, value: Any) -> bool:
        steps = {walk.plan.nodes[index].id: output for index, output in walk.outputs.items()}
        try:
            return bool(compiled({"payload": value, "event": event, "steps": steps, "vars": {}, "state": {}}))
        except ExpressionError:
            return False

    return judge


def _step(walk: _SeenWalk, node: PlannedNode, notes: _Notes | None, unfinished: Unfinished | None, ended: bool) -> Step:
    index = node.index
    state = _state(walk, index, notes, unfinished, ended)
    last = notes.last if notes is not None else None
    extra = notes.extra if notes is not None else {}
    failed = last is not None and last.kind in {trace.FAILED, trace.RETRY}
    waits = state in {"waiting", "unverified"}
    return Step(
        node=node.id,
        type=node.spec.type,
        name=node.spec.name,
        state=state,
        attempts=max(last.attempt, 1) if last is not None and state != "kept" else 0,
        started=notes.first.at if notes is not None and notes.first is not None and state != "kept" else None,
        took=_took(notes) if state in {"done", "failed"} else None,
        input=walk.inputs.get(index, UNSET),
        output=walk.outputs.get(index, UNSET),
        port=last.port if last is not None and state in {"done", "kept"} else "",
        error=last.value if failed and last is not None else None,
        config=extra.get("config"),
        saw=extra.get("saw"),
        logs=extra.get("logs", []),
        tries=notes.tries if notes is not None else [],
        until=extra.get("until") if waits else None,
        signals=extra.get("signals", []) if waits else [],
        ask=extra.get("ask") if waits else None,
        items=_items(last),
        fired=walk.fired.get(index, []),
        where=_where(extra),
    )


def _state(walk: Walk, index: int, notes: _Notes | None, unfinished: Unfinished | None, ended: bool) -> str:
    status = walk.status[index]
    if index in walk.outputs:
        kept = notes is not None and notes.last is not None and notes.last.kind == trace.SEEDED
        return "kept" if kept else "done"
    if unfinished is not None:
        at_a_peer = (unfinished.record.extra or {}).get("away", {}).get("peer")
        doing = "running" if unfinished.woken or at_a_peer else _DOING.get(unfinished.kind, "running")
        return "stopped" if ended and doing != "failed" else doing
    if status == DEAD:
        return "skipped"
    if ended:
        return "stopped" if status in {IDLE, READY} else "skipped"
    return "running" if status == READY else "pending"


def _where(extra: dict[str, Any]) -> dict[str, Any] | None:
    """The engine that a step ran on, or is at."""
    if isinstance(found := extra.get("where"), dict):
        return found
    away = extra.get("away")
    return {"engine": away["name"], "id": away["peer"]} if isinstance(away, dict) and away.get("peer") else None


def _took(notes: _Notes | None) -> int | None:
    """From the beginning of the first attempt to the end of the last."""
    if notes is None or notes.first is None or notes.last is None:
        return None
    return notes.last.at + notes.last.took - notes.first.at


def _items(last: Record | None) -> int | None:
    if last is None or last.kind != trace.SPAWNED or not isinstance(last.value, list):
        return None
    return len(last.value)
