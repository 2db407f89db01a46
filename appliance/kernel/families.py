"""Child runs: what a ``Spawn`` starts, at most so many at a time, tried again if asked, gathered in order.

A child is a run of its own with its parent's id and its place in the list of items, so it is journaled, shown,
replayed and recovered like any other; the parent's step is woken when the last one has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from appliance.contracts import Event, FlowError, Spawn, Target
from appliance.engine.plan import body_place
from appliance.engine.states import RunState
from appliance.kernel.runs import Family, FlowSlot, LiveRun, Parked
from appliance.kernel.submission import Elsewhere, Submission
from appliance.kernel.timers import Timers

MAX_DEPTH = 16
#: Seconds until a flow that is at another kernel is looked for again.
COMING = 0.5
MAX_ITEMS = 100_000


class EngineOfFamilies(Protocol):
    """What families need of their engine."""

    runs: dict[int, LiveRun]
    flows: dict[int, FlowSlot]
    timers: Timers

    def accept(self, sub: Submission) -> LiveRun | None: ...

    def cancel(self, run: LiveRun, reason: str) -> None: ...


class Families:
    """All families of all runs. Engine thread only. ``wake`` goes on with the parent's step."""

    def __init__(self, engine: EngineOfFamilies, wake: Callable[[LiveRun, int, str, str, Any], None]) -> None:
        self._engine = engine
        self._wake = wake

    def begin(self, run: LiveRun, index: int, spawn: Spawn) -> None:
        """Start the first children of a family."""
        family = self.join(run, index, spawn)
        if depth_of(run) >= MAX_DEPTH:
            self._all_failed(family, f"flows call each other more than {MAX_DEPTH} deep")
        elif len(spawn.items) > MAX_ITEMS:
            self._all_failed(family, f"more than {MAX_ITEMS:,} items")
        self.go_on(family)

    def join(self, run: LiveRun, index: int, spawn: Spawn) -> Family:
        """The record of a family, without starting anything."""
        family = Family(run, index, spawn)
        run.families[index] = family
        if spawn.until is not None:
            family.timer = self._engine.timers.at(spawn.until, lambda: self._too_late(family))
        return family

    def go_on(self, family: Family) -> None:
        """Start children until enough are under way; wake the parent when none is left."""
        if family.starting:
            # A child that ended while it was being started: the loop below goes on by itself.
            return
        total = len(family.spawn.items)
        family.starting = True
        try:
            while family.next < total and len(family.active) < family.spawn.concurrency and not family.run.ended:
                position = family.next
                family.next += 1
                if family.results[position] is None and position not in family.active:
                    self._start(family, position)
        finally:
            family.starting = False
        if family.open == 0 and family.run.families.get(family.index) is family:
            self._gathered(family)

    def _start(self, family: Family, position: int) -> None:
        run, spawn = family.run, family.spawn
        target = spawn.targets[position] if spawn.targets else Target(spawn.flow)
        slot, place = self._slot(run, target.flow), body_place(run.place, run.node(family.index).id)
        if slot is None or not (target.flow or self._begins(run, place, target.start)):
            lacks = f"flow {target.flow!r}" if target.flow else f"node {target.start!r} that its body begins with"
            self.note(family, position, {"ok": False, "error": {"id": "not-found", "message": f"there is no {lacks}"}})
            return
        number = family.attempts.get(position, 0) + 1
        family.attempts[position] = number
        meta = {
            "index": position,
            "parent": run.text,
            "node": run.node(family.index).id,
            "try": number,
            "depth": depth_of(run) + 1,
        }
        if target.start:
            meta["start"] = target.start
        if on := target.engine or run.event.get("on"):
            meta["on"] = on
        child = Submission(slot, "child", "child", Event(payload=spawn.items[position], meta=meta))
        child.parent, child.item = run.id, (family.index, position)
        if not target.flow:
            child.version, child.bypass_mode, child.place = run.version, True, place
        elif self._calls_itself(run, slot):
            # Waiting in its own flow's queue for an ancestor that waits for it would take for ever.
            child.bypass_mode = True
        try:
            made = self._engine.accept(child)
        except Elsewhere:
            # Flows that were deployed just now come to one kernel within seconds.
            family.attempts[position] = number - 1
            self._engine.timers.after(COMING, lambda: self._again(family, position))
            return
        except FlowError as exc:
            self.note(family, position, {"ok": False, "error": {"id": exc.id, "message": exc.message}})
            return
        if made is not None and not made.ended:
            family.active[position] = made

    def _calls_itself(self, run: LiveRun | None, flow: int) -> bool:
        while run is not None:
            if run.flow.num == flow:
                return True
            run = self._engine.runs.get(run.parent) if run.parent is not None else None
        return False

    def _begins(self, run: LiveRun, place: str, start: str) -> bool:
        """There is such a body, and the node that is to be its only first one is a first one."""
        graph = run.flow_plan.graphs.get(place)
        if graph is None or not start:
            return graph is not None
        return start in graph.by_id and not graph.by_id[start].incoming

    def _slot(self, run: LiveRun, flow: str) -> int | None:
        if not flow:
            return run.flow.num
        workspace = run.flow.workspace
        for slot in self._engine.flows.values():
            if slot.id == flow and slot.workspace == workspace and slot.live is not None:
                return slot.num
        return None

    def child_ended(self, child: LiveRun) -> None:
        """A child has its result; try it again, note it, or wake the parent."""
        parent = self._engine.runs.get(child.parent or 0)
        if parent is None or child.item is None:
            return
        index, position = child.item
        family = parent.families.get(index)
        if family is None or family.results[position] is not None:
            return
        family.active.pop(position, None)
        spawn, tries = family.spawn, family.attempts.get(position, 1)
        if child.state is RunState.FAILED and tries < spawn.attempts:
            delay = spawn.backoff * 2.0 ** min(tries - 1, 30)
            self._engine.timers.after(delay, lambda: self._again(family, position))
            return
        self.note(family, position, result_of(child))
        if child.state is not RunState.SUCCEEDED and spawn.stop_on_error:
            self.stop(family)
        self.settle(family)
        self.go_on(family)

    def _again(self, family: Family, position: int) -> None:
        if not family.run.ended and family.results[position] is None:
            self._start(family, position)
            self.go_on(family)

    def note(self, family: Family, position: int, result: dict[str, Any]) -> None:
        if family.results[position] is None:
            family.results[position] = result
            family.open -= 1

    def stop(self, family: Family) -> None:
        """The first failure ends the rest."""
        self._end(family, "cancelled", "cancelled", "another item failed (stop_on_error)")
        self._all_failed(family, "not started: another item failed (stop_on_error)")

    def settle(self, family: Family) -> None:
        """End the rest once enough have succeeded, or cannot any more."""
        enough = family.spawn.enough
        if not enough or not family.open:
            return
        won = sum(result is not None and bool(result["ok"]) for result in family.results)
        if won >= enough:
            self._end(family, "not-needed", "the others were enough", "the others were enough")
            self._all_failed(family, "not started: the others were enough", "not-needed")
        elif won + family.open < enough:
            self._end(family, "cancelled", "too many others failed", "too many others failed")
            self._all_failed(family, "not started: too many others failed")

    def _too_late(self, family: Family) -> None:
        """The moment has come behind which nobody waits for the rest."""
        if family.run.families.get(family.index) is family and not family.run.ended:
            self._end(family, "timed-out", "it took too long and was ended", "its caller waits no longer")
            self._all_failed(family, "not started: the time was over", "timed-out")
            self.go_on(family)

    def _end(self, family: Family, error: str, message: str, reason: str) -> None:
        for position, child in list(family.active.items()):
            family.active.pop(position, None)
            self.note(family, position, {"ok": False, "error": {"id": error, "message": message}, "run": child.text})
            self._engine.cancel(child, reason)

    def _all_failed(self, family: Family, why: str, error: str = "not-started") -> None:
        for position in range(len(family.results)):
            self.note(family, position, {"ok": False, "error": {"id": error, "message": why}})

    def _gathered(self, family: Family) -> None:
        run, index = family.run, family.index
        self.forget_timer(family)
        del run.families[index]
        parked = Parked(index, run.attempts.get(index, 1))
        parked.memo = family.spawn.memo
        run.parked[index] = parked
        self._wake(run, index, "children", "", list(family.results))

    def abandon(self, run: LiveRun) -> None:
        """The parent is over: so are its children."""
        families, run.families = dict(run.families), {}
        for family in families.values():
            self.forget_timer(family)
            for child in list(family.active.values()):
                self._engine.cancel(child, "the run that started it has ended")

    def forget_timer(self, family: Family) -> None:
        """Wait for nothing any more."""
        if family.timer:
            self._engine.timers.cancel(family.timer)


def pack_spawn(spawn: Spawn) -> list[Any]:
    """All of a spawn but its items, as it is kept with the step."""
    packed = [spawn.flow, spawn.concurrency, spawn.attempts, spawn.backoff, spawn.stop_on_error, spawn.memo]
    if spawn.targets or spawn.until is not None or spawn.enough:
        targets = [[target.flow, target.start, target.engine] for target in spawn.targets]
        packed += [targets, spawn.until, spawn.enough]
    return packed


def unpack_spawn(items: list[Any], packed: list[Any]) -> Spawn:
    """The spawn that :func:`pack_spawn` was given."""
    defaults: list[Any] = [[], None, 0]
    whole = [*packed, *defaults[len(packed) - 6 :]]
    flow, concurrency, attempts, backoff, stop_on_error, memo, targets, until, enough = whole
    chosen = [Target(*target) for target in targets]
    return Spawn(items, flow, concurrency, attempts, backoff, stop_on_error, memo, chosen, until, enough)


def depth_of(run: LiveRun) -> int:
    """How many runs deep this one was started."""
    depth = run.event.get("depth", 0)
    return depth if isinstance(depth, int) else 0


def result_of(child: LiveRun) -> dict[str, Any]:
    """A child's result as its parent sees it."""
    if child.state is RunState.SUCCEEDED:
        return {"ok": True, "output": child.output(), "run": child.text}
    return {"ok": False, "error": child.error, "run": child.text}
