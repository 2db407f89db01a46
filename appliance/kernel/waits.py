"""Steps that wait for their next try, a moment, a signal or a person: a row and a timer each, no thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance.contracts import Park, Wake
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.engine.trace import Record
from appliance.kernel.chronicle import Chronicle
from appliance.kernel.keeper import Keeper
from appliance.kernel.runs import LiveRun, Parked
from appliance.kernel.timers import Timers


class Waits:
    """Used by the engine thread only. ``push`` tries a step anew, ``resume`` goes on with one that was woken."""

    def __init__(
        self,
        keeper: Keeper,
        chronicle: Chronicle,
        timers: Timers,
        push: Callable[[LiveRun, int], None],
        resume: Callable[[LiveRun, int, int, Wake], None],
    ) -> None:
        self._keeper = keeper
        self._chronicle = chronicle
        self._timers = timers
        self._push = push
        self._resume = resume

    def retry_in(self, run: LiveRun, index: int, delay: float) -> None:
        """Try a step again later."""
        parked = Parked(index, run.attempts.get(index, 0))
        run.parked[index] = parked

        def again() -> None:
            if run.parked.get(index) is parked and not run.ended:
                del run.parked[index]
                self.settle_state(run)
                self._push(run, index)

        parked.token = self._timers.after(delay, again)
        self.settle_state(run)

    def park(self, run: LiveRun, index: int, attempt: int, park: Park, unverified: bool = False) -> None:
        """Hold a step until its moment or signal comes."""
        parked = Parked(index, attempt)
        parked.until, parked.signals, parked.memo = park.until, park.signals, park.memo
        parked.ask = dict(park.ask) if park.ask else None
        parked.unverified = unverified
        run.parked[index] = parked
        if park.until is not None:

            def due() -> None:
                if run.parked.get(index) is parked and not run.ended:
                    self.wake(run, index, "time", "", None)

            parked.token = self._timers.at(park.until, due)
        self.settle_state(run)

    def settle_state(self, run: LiveRun) -> None:
        """``waiting`` while some step waits and none is being worked on."""
        waits = bool(run.parked or run.families) and not run.running
        state = RunState.WAITING if waits else RunState.RUNNING
        if run.state != state and not run.ended:
            self._keeper.waiting += 1 if waits else -1
            run.state = state
            run.needs_update = run.row_written
            self._keeper.touch(run)

    def wake(self, run: LiveRun, index: int, kind: str, signal: str, value: Any) -> None:
        """Let a parked step go on."""
        parked = run.parked.pop(index, None)
        if parked is None:
            return
        if parked.token:
            self._timers.cancel(parked.token)
        extra = {"kind": kind, "signal": signal}
        record = Record(trace.WOKEN, index, parked.attempt, self._keeper.since(run), 0, "", value, extra)
        value = self._chronicle.record(run, record)
        self.settle_state(run)
        self._resume(run, index, parked.attempt, Wake(kind, signal, value, parked.memo))

    def forget(self, run: LiveRun) -> None:
        """The run is over: nothing of it waits any more."""
        for parked in run.parked.values():
            if parked.token:
                self._timers.cancel(parked.token)
        run.parked.clear()
