"""What a flow's runs have shown, in figures: per step how often, how long, how large, and what went wrong. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET

from appliance.engine import trace
from appliance.engine.plan import Plan
from appliance.engine.states import RunState
from appliance.engine.steps_view import Step, Story
from appliance.engine.trace import Record

#: Ids of runs that are kept as examples of one thing.
EXAMPLES = 5
_LONGEST_MESSAGE = 300


@dataclass
class StepFacts:
    """One node over all runs; times in seconds, sizes in bytes."""

    reached: int = 0
    done: int = 0
    failed: int = 0
    #: Attempts that failed, the last ones included, and steps that were done after a retry.
    tries: int = 0
    rescued: int = 0
    unverified: int = 0
    #: Times of steps that did not wait for a moment, a person or other runs.
    took: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    inputs: Counter[bytes] = field(default_factory=Counter)
    failed_runs: list[str] = field(default_factory=list)
    slow_runs: list[tuple[float, str]] = field(default_factory=list)


@dataclass
class Evidence:
    """All that was looked at: ``runs`` of one version, the newest first."""

    plan: Plan
    runs: int = 0
    since: float = 0.0
    #: Seconds from the event to the first step, and of whole runs.
    waits: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    steps: dict[str, StepFacts] = field(default_factory=dict)
    fired: Counter[int] = field(default_factory=Counter)
    #: Runs that ended well without one step that does anything outside.
    idle: int = 0

    def add(self, run: str, head: Any, story: Story, records: Sequence[Record]) -> None:
        """Take one run in; ``head`` is the history's row of it."""
        self.runs += 1
        self.since = head.accepted / 1e6
        first = next((record.at for record in records if record.kind not in _NOT_BEGUN), None)
        if first is not None:
            self.waits.append(first / 1e6)
        if head.finished is not None:
            self.durations.append((head.finished - head.accepted) / 1e6)
        waited = {record.node for record in records if record.kind in _WAITED}
        outside = False
        for index, step in enumerate(story.steps):
            node = self.plan.nodes[index]
            self._add_step(run, self.steps.setdefault(node.id, StepFacts()), step, index in waited)
            self.fired.update(step.fired)
            outside = outside or (node.fenced and step.state == "done")
        if head.state == RunState.SUCCEEDED and not outside:
            self.idle += 1

    def _add_step(self, run: str, facts: StepFacts, step: Step, waited: bool) -> None:
        if step.started is None:
            return
        facts.reached += 1
        facts.tries += len(step.tries) + (step.state == "failed")
        facts.unverified += step.state == "unverified"
        for one in step.tries:
            facts.errors[_error(one.error)] += 1
        if step.input is not UNSET:
            facts.inputs[trace.pack([step.input, step.config])[:4_000]] += 1
        if step.state == "done":
            facts.done += 1
            facts.rescued += bool(step.tries)
            facts.sizes.append(size_of(step.output))
        elif step.state == "failed":
            facts.failed += 1
            facts.errors[_error(step.error)] += 1
            if len(facts.failed_runs) < EXAMPLES:
                facts.failed_runs.append(run)
        if step.took is not None and not waited:
            seconds = step.took / 1e6
            facts.took.append(seconds)
            facts.slow_runs = sorted([*facts.slow_runs, (seconds, run)], reverse=True)[:EXAMPLES]


_WAITED = {trace.PARKED, trace.SPAWNED, trace.UNVERIFIED}
_NOT_BEGUN = {trace.NOTE, trace.SEEDED}


def _error(error: Any) -> tuple[str, str]:
    """An error's id and message."""
    if isinstance(error, dict):
        return str(error.get("id", "")), str(error.get("message", ""))[:_LONGEST_MESSAGE]
    return "", str(error)[:_LONGEST_MESSAGE]


def size_of(value: Any) -> int:
    """Bytes of a value as it is kept; of one that was put aside, those of the blob."""
    if isinstance(value, dict) and isinstance(value.get("$blob"), str) and isinstance(value.get("size"), int):
        return int(value["size"])
    return 0 if value is UNSET else len(trace.pack(value))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
