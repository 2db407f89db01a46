"""A fake of :class:`appliance.contracts.TriggerContext`: its own clock, and everything a trigger did on record.

Events are committed at once unless the test takes that over (``auto_commit=False`` and :meth:`commit`)::

    ctx = FakeTriggerContext()
    detach = attach(Schedule(), {"every": "1h"}, ctx)
    ctx.advance(3600)
    assert [event.payload["unix"] for event in ctx.events] == [NOON + 3600]
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.contracts import Busy, Committed, Devices, Event, Mqtt, RunEnded, Trigger, decode
from tests.support.context import NOON, Unplugged

_Offer = tuple[Event, Committed | None]


@dataclass
class FakeTriggerContext:
    """What a trigger receives.

    ``events`` are the accepted ones in order, ``runs`` those that started a run (an id that is known starts none).
    With ``room`` set, so many events are accepted until the test makes more; past that, ``Busy``.
    """

    flow: str = "flow"
    trigger: str = "t1"
    cursor: Any = None
    starting: bool = False
    mqtt: Mqtt = field(default_factory=lambda: Unplugged("mqtt"))
    devices: Devices = field(default_factory=lambda: Unplugged("devices"))
    clock: float = NOON
    clock_right: bool = True
    auto_commit: bool = True
    room: int | None = None
    retry_after: float = 1.0
    events: list[Event] = field(default_factory=list)
    runs: list[Event] = field(default_factory=list)
    dead_letters: list[tuple[Event, str]] = field(default_factory=list)
    states: list[tuple[bool | None, str]] = field(default_factory=list)
    listeners: list[Callable[[RunEnded], None]] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    refusals: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._uncommitted: list[tuple[Event, str, Committed | None]] = []

    # --- the contract ---

    def emit(self, event: Event, committed: Committed | None = None) -> None:
        self.emit_many([(event, committed)])

    def emit_many(self, events: Sequence[_Offer]) -> None:
        self._take_room(len(events))
        for event, committed in events:
            self.events.append(event)
            self._uncommitted.append((event, self._run_of(event), committed))
        if self.auto_commit:
            self.commit()

    def dead_letter(self, event: Event, reason: str, committed: Committed | None = None) -> None:
        self._take_room(1)
        self.dead_letters.append((event, reason))
        self._uncommitted.append((event, f"dead-{next(self._numbers)}", committed))
        if self.auto_commit:
            self.commit()

    def now(self) -> float:
        return self.clock

    def clock_ok(self) -> bool:
        return self.clock_right

    def call_at(self, when: float, function: Callable[[], None]) -> Callable[[], None]:
        entry = (when, next(self._numbers), function)
        heapq.heappush(self._timers, entry)

        def cancel() -> None:
            if entry in self._timers:
                self._timers.remove(entry)
                heapq.heapify(self._timers)

        return cancel

    def on_run_ended(self, function: Callable[[RunEnded], None]) -> Callable[[], None]:
        self.listeners.append(function)
        return lambda: self.listeners.remove(function) if function in self.listeners else None

    def status(self, ok: bool | None, text: str) -> None:
        if self.states[-1:] != [(ok, text)]:
            self.states.append((ok, text))

    # --- for the test ---

    def commit(self) -> None:
        """What was accepted is on disk now."""
        waiting, self._uncommitted = self._uncommitted, []
        for event, run, committed in waiting:
            if event.cursor is not None:
                self.cursor = event.cursor
            if committed is not None:
                committed(run)

    def advance(self, seconds: float) -> None:
        """Let time pass, firing timers when they are due."""
        end = self.clock + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, function = heapq.heappop(self._timers)
            self.clock = max(self.clock, when)
            function()
        self.clock = end

    def jump(self, to: float) -> None:
        """The clock is set (or the machine wakes up): timers that are due by then fire afterwards."""
        self.clock = to
        self.advance(0)

    def restarted(self, **changes: Any) -> FakeTriggerContext:
        """What the same trigger receives in the engine's next life: only what was committed is left."""
        kept = {"flow": self.flow, "trigger": self.trigger, "cursor": self.cursor, "clock": self.clock}
        return FakeTriggerContext(**{**kept, "known": dict(self.known), **changes})

    def end_run(self, run: RunEnded) -> None:
        for listener in list(self.listeners):
            listener(run)

    @property
    def timers(self) -> list[float]:
        return sorted(when for when, _, _ in self._timers)

    def _take_room(self, count: int) -> None:
        if self.room is None:
            return
        if count > self.room:
            self.refusals += 1
            raise Busy(retry_after=self.retry_after)
        self.room -= count

    def _run_of(self, event: Event) -> str:
        if (event.unique or event.redelivered) and event.id in self.known:
            return self.known[event.id]
        run = f"run-{next(self._numbers)}"
        if event.id:
            self.known[event.id] = run
        self.runs.append(event)
        return run


def attach(trigger: Trigger[Any], config: Mapping[str, Any], ctx: FakeTriggerContext) -> Callable[[], None]:
    """Decode the config and attach; returns the detach."""
    return trigger.attach(ctx, decode(trigger.Config, config))
