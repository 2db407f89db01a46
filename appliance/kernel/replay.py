"""A replay: a new run of the same event that begins at any step of an earlier one."""

from __future__ import annotations

from typing import Any

from appliance.contracts import Event
from appliance.engine import trace
from appliance.engine.runner import recover
from appliance.engine.states import Letter
from appliance.engine.trace import Record, records_of
from appliance.kernel.context import judge_for
from appliance.kernel.core import Core
from appliance.kernel.maintenance import Unknown
from appliance.kernel.params import NotNow, run_number, text
from appliance.kernel.runs import FlowSlot, LiveRun
from appliance.kernel.server import Params
from appliance.kernel.submission import Submission
from appliance.store.runids import to_text

_OWN = {"id", "time", "type", "trigger", "replay_of", "replay_from", "replay_payload"}


class Replay:
    """A new run that takes over what another did before a step."""

    def __init__(self, kernel: Core, params: Params) -> None:
        self._kernel = kernel
        self._engine = kernel.engine
        self._params = params
        self.origin = run_number(params)
        if self.origin in self._engine.runs:
            self._engine.commit()
        loaded = self._engine.journal.load(self.origin)
        if loaded is None:
            raise Unknown("there is no such run")
        self._row, chunks = loaded
        self.letter = self._row.letter == Letter.OPEN
        row = self._row
        self._event_id, self._view, payload, self._item = trace.unpack_event(row.event, row.trigger, row.accepted)
        self._payload = self._engine.keeper.unpack(payload)
        self._records = [kernel.recovery.whole(record) for record in records_of([self._row.steps, *chunks])]

    def submission(self) -> Submission:
        """Ready to be accepted. Raises ``Unknown`` for a step that the flow does not have."""
        flow = self._engine.slot(self._row.flow)
        if flow is None:
            raise Unknown("the flow of this run does not exist any more")
        live = self._params.get("version") == "live"
        version = flow.live if live else self._row.version
        if version is None:
            raise NotNow(f"flow {flow.id!r} is not deployed")
        plan = self._engine.plan(version)
        if self._row.place not in plan.graphs:
            raise Unknown("the live version has no such part any more")
        original = self._view.get("replay_payload", self._payload)
        meta = {key: value for key, value in self._view.items() if key not in _OWN}
        meta["replay_of"] = to_text(self.origin)
        start = text(self._params, "from", "")
        given = "payload" in self._params
        payload = self._params["payload"] if given else (self._input_of(start) if start else original)
        if start:
            meta |= {"replay_from": start, "replay_payload": original}
        submission = Submission(flow.num, self._row.trigger, "replay", Event(payload=payload, meta=meta))
        submission.version, submission.place, submission.origin = version, self._row.place, self.origin
        submission.bypass_mode = True
        if start:
            if start not in plan.graphs[self._row.place].by_id:
                raise Unknown(f"there is no step {start!r} in this version")
            submission.prepare = lambda run: self._prepare(run, start, original)
        return submission

    def _original(self) -> LiveRun:
        """The original run's state, folded from its journal."""
        flow = self._engine.slot(self._row.flow) or FlowSlot(self._row.flow, "", "", "", None)
        plan = self._engine.plan(self._row.version)
        run = LiveRun(self._row.id, flow, self._row.version, plan, self._row.place)
        run.event, run.origin = self._view, self._row.origin
        run.walk.payload = self._payload
        run.walk.begin_at(run.place, self._view)
        self._kernel.recovery.overrides(run, self._view)
        recover(run.walk, self._records, judge_for(self._engine.services, run, 0))
        return run

    def _input_of(self, start: str) -> Any:
        run = self._original()
        node = run.plan.by_id.get(start)
        if node is None:
            raise Unknown(f"there is no step {start!r} in that run's version")
        return run.walk.payload_of(node.index)

    def _prepare(self, run: LiveRun, start: str, original: Any) -> None:
        node = run.plan.by_id[start]
        old = self._original()
        same = run.version == self._row.version
        settled: dict[int, Record] = {}
        for record in self._records:
            if record.kind not in {trace.DONE, trace.SAME, trace.SEEDED}:
                continue
            now = run.plan.by_id.get(old.node(record.node).id)
            if now is not None:
                extra = {"fired": record.extra["fired"]} if same and record.extra and "fired" in record.extra else None
                value = old.walk.outputs.get(record.node)
                settled[now.index] = Record(trace.SEEDED, now.index, record.attempt, 0, 0, record.port, value, extra)
        run.walk.overrides[node.index] = run.walk.payload
        run.walk.payload = original
        run.seeds = run.walk.kept_before(settled, node.index)
