"""The state of one run and the rules by which it moves: pure, no clock, no thread, no disk.

``start`` and ``settle`` return the nodes that became ready. A node runs when every incoming edge is settled
and one of them fired; when none fired it is dead and settles its own edges as not fired (dead-path
elimination). ``join: any`` runs at the first edge that fires. ``recover`` folds a journal back into a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from appliance.engine import trace
from appliance.engine.expressions import Compiled
from appliance.engine.plan import Plan
from appliance.engine.trace import Record

IDLE, READY, SETTLED, DEAD = 0, 1, 2, 3

#: Says whether an edge's condition holds for a payload.
Judge = Callable[[Compiled, Any], bool]


def unjudged(compiled: Compiled, value: Any) -> bool:
    """For nodes none of whose edges has a condition."""
    raise AssertionError(f"nobody judges {compiled.source!r}")


class Walk:
    """Where one run stands in its graph."""

    __slots__ = (
        "_arrived",
        "_live",
        "ends",
        "fired_edges",
        "last_port",
        "only",
        "outputs",
        "overrides",
        "payload",
        "plan",
        "remaining",
        "status",
    )

    def __init__(self, plan: Plan, payload: Any) -> None:
        count = len(plan.nodes)
        self.plan = plan
        self.payload = payload
        self.outputs: dict[int, Any] = {}
        self.overrides: dict[int, Any] = {}
        self.ends: list[int] = []
        self.fired_edges: list[int] = []
        #: The port by which the last step left.
        self.last_port = ""
        #: The one node without incoming edges that runs, if not all of them do.
        self.only: int | None = None
        self.status = bytearray(count)
        self.remaining = count
        self._arrived = [0] * count
        self._live: dict[int, list[int]] = {}

    def start(self) -> list[int]:
        """The nodes without incoming edges, or the one of them that this run begins at."""
        if self.only is not None:
            return self._start_at(self.only)
        for index in self.plan.starts:
            self.status[index] = READY
        return list(self.plan.starts)

    def begin_at(self, place: str, view: Mapping[str, Any]) -> None:
        """A run of a body (``place``) may be one of a single branch of it: its event says at which node it begins."""
        node = self.plan.by_id.get(str(view.get("start", ""))) if place else None
        if node is not None and not node.incoming:
            self.only = node.index

    def _start_at(self, only: int) -> list[int]:
        dead = [index for index in self.plan.starts if index != only]
        for index in dead:
            self.status[index] = DEAD
        self.remaining -= len(dead)
        self.status[only] = READY
        return [only, *self._bury(dead)]

    def inputs_of(self, index: int) -> dict[str, Any]:
        """What came in, by the id of the node that it came from."""
        nodes, outputs = self.plan.nodes, self.outputs
        return {nodes[source].id: outputs.get(source) for source in self._live.get(index, ())}

    def payload_of(self, index: int) -> Any:
        """What a node works on: the one value that came in, or all of them by source if several did."""
        if self.overrides and index in self.overrides:
            return self.overrides[index]
        live = self._live.get(index)
        if not live:
            return self.payload
        if len(live) == 1:
            return self.outputs[live[0]]
        return self.inputs_of(index)

    def settle(
        self, index: int, port: str, value: Any, judge: Judge = unjudged, fired: Iterable[int] | None = None
    ) -> list[int]:
        """The node is done with ``value`` on ``port``; returns what became ready.

        ``fired`` are edge numbers from the journal, where conditions were judged before. Otherwise ``judge``
        decides; it may raise, and then nothing has changed. ``fired_edges`` holds the outcome.
        """
        node = self.plan.nodes[index]
        if fired is not None:
            chosen = set(fired)
            hits = [edge for edge in node.out if edge.index in chosen]
        else:
            hits = [e for e in node.out if e.port == port and (e.condition is None or judge(e.condition, value))]
        self.fired_edges = [edge.index for edge in hits]
        self.outputs[index] = value
        self.last_port = port
        self.status[index] = SETTLED
        self.remaining -= 1
        if not hits and port:
            self.ends.append(index)
        if len(node.out) == 1 and hits:
            return self._arrive_one(node.out[0].target, index)
        return self._arrive(index, {id(edge) for edge in hits})

    def _arrive_one(self, target: int, source: int) -> list[int]:
        """The common case: one edge, and it fired."""
        self._arrived[target] += 1
        self._live.setdefault(target, []).append(source)
        return self._judge_target(target, [])

    def _arrive(self, index: int, hits: set[int]) -> list[int]:
        ready: list[int] = []
        dead: list[int] = []
        for edge in self.plan.nodes[index].out:
            self._arrived[edge.target] += 1
            if id(edge) in hits:
                live = self._live.setdefault(edge.target, [])
                if index not in live:
                    live.append(index)
            ready += self._judge_target(edge.target, dead)
        return ready + self._bury(dead) if dead else ready

    def _bury(self, dead: list[int]) -> list[int]:
        """Settle the edges of nodes that do not run; returns what became ready."""
        ready: list[int] = []
        while dead:
            gone = dead.pop()
            for edge in self.plan.nodes[gone].out:
                self._arrived[edge.target] += 1
                ready += self._judge_target(edge.target, dead)
        return ready

    def _judge_target(self, target: int, dead: list[int]) -> list[int]:
        if self.status[target] != IDLE:
            return []
        complete = self._arrived[target] >= self.plan.indegree[target]
        if target in self._live and (complete or self.plan.nodes[target].join_any):
            self.status[target] = READY
            return [target]
        if complete:
            self.status[target] = DEAD
            self.remaining -= 1
            dead.append(target)
        return []

    @property
    def finished(self) -> bool:
        return self.remaining == 0

    def result(self) -> Any:
        """The run's output: of its one end, or of all its ends by node id; None if every path was absorbed."""
        if len(self.ends) == 1:
            return self.outputs[self.ends[0]]
        return {self.plan.nodes[index].id: self.outputs[index] for index in self.ends} or None

    def kept_before(self, settled: Mapping[int, Record], index: int) -> list[Record]:
        """Of what another run has settled, that which a replay from node ``index`` takes over, in graph order."""
        after = self.plan.downstream(index)
        return [settled[i] for i in self._order() if i in settled and i not in after]

    def force_overrides(self) -> None:
        """A replay begins at its node even where no edge led there."""
        for index in self.overrides:
            if self.status[index] == DEAD:
                self.remaining += 1
            if self.status[index] in {IDLE, DEAD}:
                self.status[index] = READY

    def _order(self) -> list[int]:
        """Node numbers, each behind all that lead to it (Kahn's algorithm)."""
        left = list(self.plan.indegree)
        order = list(self.plan.starts)
        for index in order:
            for edge in self.plan.nodes[index].out:
                left[edge.target] -= 1
                if not left[edge.target]:
                    order.append(edge.target)
        return order


class Unfinished:
    """What the journal says of a step that has not settled."""

    __slots__ = ("attempt", "kind", "record", "woken")

    def __init__(self, kind: int, attempt: int, record: Record) -> None:
        self.kind = kind
        self.attempt = attempt
        self.record = record
        self.woken: Record | None = None


def recover(walk: Walk, records: Iterable[Record], judge: Judge) -> dict[int, Unfinished]:
    """Fold a journal into ``walk``; returns the steps that were under way, by node number.

    Steps that are ready and not in the result were never begun (or were pure and cut off).
    """
    walk.start()
    open_steps: dict[int, Unfinished] = {}
    forced = not walk.overrides
    for record in records:
        if record.kind == trace.NOTE:
            continue
        if not forced and record.kind != trace.SEEDED:
            forced = True
            walk.force_overrides()
        if record.kind in _SETTLES:
            open_steps.pop(record.node, None)
            value = walk.payload_of(record.node) if record.kind == trace.SAME else record.value
            fired = (record.extra or {}).get("fired")
            walk.settle(record.node, record.port, value, judge, fired)
        elif record.kind == trace.WOKEN and record.node in open_steps:
            open_steps[record.node].woken = record
        else:
            open_steps[record.node] = Unfinished(record.kind, record.attempt, record)
    if not forced:
        walk.force_overrides()
    return open_steps


_SETTLES = {trace.DONE, trace.SAME, trace.SEEDED}
