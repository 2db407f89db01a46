"""Going on after a crash: every run that the journal calls under way is folded back and continued.

A ``pure`` or ``idempotent`` step that was cut off is run again (the latter under the same key). A ``once`` step
that was cut off is unverified, and its flow's ``on_crash`` policy decides: retry, skip, fail, or ask a person.
"""

from __future__ import annotations

import logging
from typing import Any

from appliance.contracts import Park, Spawn, Wake
from appliance.engine import trace
from appliance.engine.runner import READY, Unfinished, recover
from appliance.engine.states import Letter, RunState
from appliance.engine.trace import Record, records_of
from appliance.kernel.context import judge_for
from appliance.kernel.engine import Engine
from appliance.kernel.families import result_of, unpack_spawn
from appliance.kernel.runs import Family, FlowSlot, LiveRun
from appliance.kernel.steps import ASK_UNVERIFIED
from appliance.store.journal import Batch, RunRow, RunUpdate, ended
from appliance.store.runids import to_text
from appliance.store.shards import StoreFailure

logger = logging.getLogger(__name__)

#: Shards in which runs may be that another process accepted.
NEWEST = 2


class Recovery:
    """One pass over the journal at start, or one run at a time later (a run that another process accepted)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: dict[int, dict[int, Unfinished]] = {}
        #: When a run's first step began, in seconds behind its acceptance.
        self._began: dict[int, float] = {}

    def all(self, cancel: str = "") -> int:
        """Take up every run under way; returns how many. With a reason to ``cancel`` they end instead of going on."""
        return self._take_all(list(self._engine.journal.under_way()), cancel)

    def strays(self, everywhere: bool = False) -> int:
        """Take up runs that are in the journal and not in memory: accepted by the gateway while no kernel ran.

        They are in the newest shards, so an idle engine need not open the others again and again. ``everywhere`` looks
        into all: flows with their runs have come from another kernel.
        """
        if self._engine.draining:
            return 0
        # What has ended in memory must not look as if it were under way.
        self._engine.commit()
        if self._engine.keeper.degraded:
            return 0
        known = self._engine.runs
        found = self._engine.journal.under_way(None if everywhere else NEWEST)
        return self._take_all([entry for entry in found if entry[0].id not in known])

    def _take_all(self, rows: list[tuple[RunRow, list[bytes]]], cancel: str = "") -> int:
        taken = [run for row, chunks in rows if (run := self._take(row, chunks))]
        for run in taken:
            try:
                if cancel:
                    self._engine.cancel(run, cancel)
                else:
                    self._go_on(run)
            except Exception as exc:
                logger.exception("run %s cannot go on", run.text)
                self._engine.fail(run, unrecoverable(exc))
        return len(taken)

    def _take(self, row: RunRow, chunks: list[bytes]) -> LiveRun | None:
        flow = self._engine.slot(row.flow)
        if flow is None:
            flow = FlowSlot(row.flow, f"deleted-{row.flow}", "deleted flow", "home", None)
            self._engine.flows[row.flow] = flow
        try:
            run = self.restore(flow, row, chunks)
        except Exception as exc:
            logger.exception("run %s cannot be taken up", row.id)
            self._give_up(row, exc)
            return None
        self._engine.hold(run)
        return run

    def restore(self, flow: FlowSlot, row: RunRow, chunks: list[bytes]) -> LiveRun:
        """The run as the journal has it. Raises whatever a damaged record or a lost version raises."""
        engine = self._engine
        run = LiveRun(row.id, flow, row.version, engine.plan(row.version), row.place)
        _, view, payload, item = trace.unpack_event(row.event, row.trigger, row.accepted)
        run.event = view
        run.event_data = row.event
        run.walk.payload = engine.keeper.unpack(payload)
        run.walk.begin_at(run.place, view)
        run.trigger, run.accepted, run.parent, run.origin = row.trigger, row.accepted, row.parent, row.origin
        run.item = (item[0], item[1]) if item else None
        run.state, run.letter, run.finished = RunState(row.state), Letter(row.letter), row.finished
        run.error = trace.unpack(row.error) if row.error else None
        run.row_written, run.chunks = True, len(chunks)
        if run.state is not RunState.QUEUED:
            records = [self.whole(record) for record in records_of([row.steps, *chunks])]
            if any(record.node >= len(run.plan.nodes) for record in records):
                raise ValueError("its records name steps that its version does not have")
            self._began[run.id] = next((record.at for record in records), 0) / 1e6
            self.overrides(run, view)
            self._open[run.id] = recover(run.walk, records, judge_for(engine.services, run, 0))
            for index, unfinished in self._open[run.id].items():
                run.attempts[index] = unfinished.attempt
        return run

    def whole(self, record: Record) -> Record:
        """A record with values that were put aside brought back."""
        value = self._engine.keeper.unpack(record.value)
        if value is record.value:
            return record
        return Record(
            record.kind, record.node, record.attempt, record.at, record.took, record.port, value, record.extra
        )

    def overrides(self, run: LiveRun, view: dict[str, Any]) -> None:
        """A replay begins at a node with an edited payload; both are in its event."""
        node = run.plan.by_id.get(str(view.get("replay_from", "")))
        if run.origin is not None and node is not None:
            run.walk.overrides[node.index] = run.walk.payload
            run.walk.payload = self._engine.keeper.unpack(view.get("replay_payload"))

    def _give_up(self, row: RunRow, exc: Exception) -> None:
        batch = Batch()
        finished = int(self._engine.services.wall() * 1e6)
        error = trace.pack(unrecoverable(exc))
        batch.updates.append(RunUpdate(row.id, RunState.FAILED, finished, error, Letter.OPEN))
        try:
            self._engine.journal.commit(batch)
        except StoreFailure as failure:
            logger.error("run %s stays as it is: %s", row.id, failure)

    def _go_on(self, run: LiveRun) -> None:
        engine = self._engine
        if run.state is RunState.QUEUED:
            run.flow.queue.append(run)
            engine.post(lambda: engine.next_in_queue(run.flow))
            return
        run.state = RunState.RUNNING
        unfinished, began = self._open.pop(run.id, {}), self._began.pop(run.id, 0.0)
        if run.parent is not None and run.parent not in engine.runs:
            engine.cancel(run, "the run that started it has ended")
            return
        engine.limit(run, max(0.0, engine.services.wall() - run.accepted / 1e6 - began))
        ready = [index for index, status in enumerate(run.walk.status) if status == READY]
        for index in ready:
            if index not in unfinished:
                engine.push(run, index)
        for index, step in unfinished.items():
            if not run.ended:
                self._resume(run, index, step)
        if run.walk.finished:
            engine.succeed(run)
        elif not (ready or unfinished or run.ended):
            raise ValueError("its records lead nowhere")

    def _resume(self, run: LiveRun, index: int, step: Unfinished) -> None:
        engine, extra = self._engine, step.record.extra or {}
        if step.kind == trace.RETRY:
            engine.steps.waits.retry_in(run, index, max(0.0, extra.get("again", 0.0) - engine.services.wall()))
        elif step.kind == trace.INTENT:
            engine.steps.unverified(run, index, step.attempt)
        elif step.kind == trace.FAILED:
            engine.fail(run, step.record.value)
        elif step.woken is not None:
            self._woken(run, index, step)
        elif step.kind == trace.PARKED and "away" in extra:
            engine.placement.recover(run, index, step.attempt, extra)
        elif step.kind == trace.PARKED:
            signals = tuple(extra.get("signals", ()))
            park = Park(extra.get("until"), signals, step.record.value, extra.get("ask"))
            engine.steps.waits.park(run, index, step.attempt, park)
        elif step.kind == trace.UNVERIFIED:
            engine.steps.waits.park(run, index, step.attempt, Park(ask=ASK_UNVERIFIED), unverified=True)
        elif step.kind == trace.SPAWNED:
            self._family(run, index, step)

    def _woken(self, run: LiveRun, index: int, step: Unfinished) -> None:
        assert step.woken is not None
        extra = step.woken.extra or {}
        if extra.get("kind") == "decision":
            self._engine.steps.carry_out(run, index, step.attempt, extra["signal"])
            return
        memo = step.record.value
        if step.kind == trace.SPAWNED:
            memo = self._spawn_of(step.record).memo
        wake = Wake(extra.get("kind", ""), extra.get("signal", ""), step.woken.value, memo)
        self._engine.steps.resume(run, index, step.attempt, wake)

    def _family(self, run: LiveRun, index: int, step: Unfinished) -> None:
        """Gather the children that exist; start only those that were never accepted."""
        families = self._engine.families
        family = families.join(run, index, self._spawn_of(step.record))
        newest: dict[int, tuple[RunRow, list[bytes]]] = {}
        for row, chunks in self._engine.journal.children(run.id):
            item = trace.unpack(row.event)[3]
            if item and item[0] == index:
                family.attempts[item[1]] = family.attempts.get(item[1], 0) + 1
                newest[item[1]] = (row, chunks)
        self._gather(family, newest)
        self._engine.post(lambda: families.go_on(family))

    def _spawn_of(self, record: Record) -> Spawn:
        return unpack_spawn(record.value, self._engine.keeper.unpack((record.extra or {})["spawn"]))

    def _gather(self, family: Family, newest: dict[int, tuple[RunRow, list[bytes]]]) -> None:
        """The results of the children that have ended; those that are under way are waited for."""
        families, spawn = self._engine.families, family.spawn
        for position, (row, chunks) in newest.items():
            live = self._engine.runs.get(row.id)
            if live is not None:
                family.active[position] = live
            elif ended(row.state):
                retry = row.state == RunState.FAILED and family.attempts[position] < spawn.attempts
                if not retry:
                    families.note(family, position, self._result(row, chunks))
        if spawn.stop_on_error and any(result is not None and not result["ok"] for result in family.results):
            families.stop(family)
        families.settle(family)

    def _result(self, row: RunRow, chunks: list[bytes]) -> dict[str, Any]:
        try:
            return result_of(self.told(row, chunks))
        except Exception as exc:
            return {"ok": False, "error": unrecoverable(exc), "run": to_text(row.id)}

    def told(self, row: RunRow, chunks: list[bytes]) -> LiveRun:
        """A run that has ended, to be looked at. Raises as :meth:`restore` does."""
        flow = self._engine.slot(row.flow) or FlowSlot(row.flow, "", "", "home", None)
        run = self.restore(flow, row, chunks)
        self._open.pop(run.id, None)
        self._began.pop(run.id, None)
        return run


def unrecoverable(exc: Exception) -> dict[str, str]:
    """The error of a run of which the journal does not hold enough."""
    return {"id": "unrecoverable", "message": f"the run cannot be taken up: {type(exc).__name__}: {exc}"}
