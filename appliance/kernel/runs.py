"""What the engine holds in memory of flows and of runs that are under way."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.contracts import Event, Spawn
from appliance.engine import trace
from appliance.engine.plan import FlowPlan, Plan, PlannedNode
from appliance.engine.runner import Walk
from appliance.engine.states import Letter, RunState
from appliance.engine.trace import Record
from appliance.store.journal import RunRow, RunUpdate
from appliance.store.runids import to_text

#: The trigger of runs that do a step for a peer; no flow's trigger can be called so.
GUEST = "@peer"


class FlowSlot:
    """One flow: which version is live, and its runs under way."""

    __slots__ = ("active", "id", "inner", "live", "name", "num", "queue", "workspace")

    def __init__(self, num: int, flow: str, name: str, workspace: str, live: int | None) -> None:
        self.num = num
        self.id = flow
        self.name = name
        self.workspace = workspace
        self.live = live
        self.active: dict[int, LiveRun] = {}
        self.queue: deque[LiveRun] = deque()
        #: How many of the active ones run a body inside another run.
        self.inner = 0

    def under_way(self) -> int:
        """Runs that count for the flow's mode: neither in its queue nor inside another run."""
        return len(self.active) - self.inner - len(self.queue)


class Parked:
    """A step that waits: for a moment, a signal, a person, or its children."""

    __slots__ = ("ask", "attempt", "away", "index", "memo", "signals", "token", "until", "unverified")

    def __init__(self, index: int, attempt: int) -> None:
        self.index = index
        self.attempt = attempt
        self.until: float | None = None
        self.signals: tuple[str, ...] = ()
        self.memo: Any = None
        self.ask: dict[str, Any] | None = None
        self.unverified = False
        self.token = 0
        #: The step at a peer that this waits for (:mod:`appliance.kernel.peering.placement`).
        self.away: Any = None


class Family:
    """The children of one ``Spawn``."""

    __slots__ = ("active", "attempts", "index", "next", "open", "results", "run", "spawn", "starting", "timer")

    def __init__(self, run: LiveRun, index: int, spawn: Spawn) -> None:
        self.run = run
        self.index = index
        self.spawn = spawn
        self.next = 0
        self.timer = 0
        self.starting = False
        self.active: dict[int, LiveRun] = {}
        self.attempts: dict[int, int] = {}
        self.open = len(spawn.items)
        self.results: list[dict[str, Any] | None] = [None] * self.open


class LiveRun:
    """One run under way."""

    __slots__ = (
        "accepted",
        "attempts",
        "chunks",
        "dirty",
        "error",
        "event",
        "event_data",
        "families",
        "finished",
        "flow",
        "flow_plan",
        "id",
        "item",
        "letter",
        "needs_update",
        "news",
        "on_end",
        "origin",
        "parent",
        "parked",
        "place",
        "plan",
        "records",
        "row_written",
        "running",
        "seeds",
        "state",
        "text",
        "timer",
        "trigger",
        "version",
        "walk",
    )

    def __init__(self, number: int, flow: FlowSlot, version: int, flow_plan: FlowPlan, place: str) -> None:
        self.id = number
        self.text = to_text(number)
        self.flow = flow
        self.version = version
        self.flow_plan = flow_plan
        self.place = place
        self.plan: Plan = flow_plan.graphs[place]
        self.walk: Walk = Walk(self.plan, None)
        self.state = RunState.RUNNING
        self.trigger = ""
        self.event: dict[str, Any] = {}
        self.event_data = b""
        self.accepted = 0
        self.finished: int | None = None
        self.error: Any = None
        self.letter = Letter.NONE
        self.parent: int | None = None
        self.item: tuple[int, int] | None = None
        self.origin: int | None = None
        # What the journal has, and what it lacks.
        self.row_written = False
        self.needs_update = False
        self.dirty = False
        self.chunks = 0
        self.records: list[bytes] = []
        # What is going on.
        self.running: dict[int, Any] = {}
        self.parked: dict[int, Parked] = {}
        self.families: dict[int, Family] = {}
        self.attempts: dict[int, int] = {}
        self.on_end: list[Callable[[LiveRun], None]] = []
        self.news: list[dict[str, Any]] = []
        self.seeds: list[Record] = []
        #: The timer of the whole run's timeout.
        self.timer = 0

    @property
    def ended(self) -> bool:
        return self.state >= RunState.SUCCEEDED

    def node(self, index: int) -> PlannedNode:
        return self.plan.nodes[index]

    def output(self) -> Any:
        """The result so far; the final one once the run has succeeded."""
        return self.walk.result()

    def new_row(self) -> RunRow:
        """The row of a run that the journal has not seen, with all that happened so far in it."""
        return RunRow(
            self.id,
            self.flow.num,
            self.version,
            self.place,
            int(self.state),
            self.accepted,
            self.finished,
            self.trigger,
            self.event_data,
            trace.pack(self.error) if self.error is not None else None,
            self.parent,
            self.origin,
            int(self.letter),
            trace.join(self.records) if self.records else b"",
        )

    def update(self) -> RunUpdate:
        """The changed columns of a run that the journal has."""
        error = trace.pack(self.error) if self.error is not None else None
        return RunUpdate(self.id, int(self.state), self.finished, error, int(self.letter))


def key_of(flow: int, trigger: str, event_id: str) -> str:
    """What a unique event is remembered by: short however long its id is, and without what may be secret in it."""
    digest = hashlib.blake2b(event_id.encode(errors="surrogatepass"), digest_size=15).digest()
    return f"{flow}:{trigger}:{base64.urlsafe_b64encode(digest).decode()}"


def event_view(event: Event, kind: str, trigger: str, now: float) -> dict[str, Any]:
    """What templates see as ``event``."""
    moment = event.time if event.time is not None else now
    return {**event.meta, "id": event.id, "time": moment, "type": kind, "trigger": trigger}


def resolved(record: Record, payload: Any) -> Record:
    """A settled record with its value written out (a SAME record has the payload for its value)."""
    if record.kind != trace.SAME:
        return record
    return Record(trace.DONE, record.node, record.attempt, record.at, record.took, record.port, payload, record.extra)
