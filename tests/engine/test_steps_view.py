"""A run told step by step, from records alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from appliance.engine import trace
from appliance.engine.plan import Plan, plan_flow
from appliance.engine.steps_view import Step, story_of
from appliance.engine.trace import Record
from appliance.registry import Registry
from tests.support.flows import compute, edges, flow, node

KINDS = Registry().scan()


def plan_of(*nodes: dict[str, Any], **more: Any) -> Plan:
    return plan_flow(flow(*nodes, **more), KINDS).graphs[""]


def done(index: int, value: Any, port: str = "out", **extra: Any) -> Record:
    return Record(trace.DONE, index, 1, 100 * index, 10, port, value, extra or None)


def told(plan: Plan, *records: Record, ended: bool = True, **more: Any) -> dict[str, Step]:
    story = story_of(plan, more.pop("payload", "in"), records, ended=ended, **more)
    assert [step.node for step in story.steps] == [planned.id for planned in plan.nodes]
    return {step.node: step for step in story.steps}


def states(steps: dict[str, Step]) -> dict[str, str]:
    return {name: step.state for name, step in steps.items()}


LINE = plan_of(compute("a", "1"), compute("b", "2"), compute("c", "3"))


def test_nothing_has_happened() -> None:
    steps = told(LINE, ended=False)
    assert states(steps) == {"a": "running", "b": "pending", "c": "pending"}
    assert steps["a"].input == "in" and steps["b"].input is UNSET and steps["a"].output is UNSET
    assert states(told(LINE)) == dict.fromkeys("abc", "stopped")


def test_what_goes_in_is_what_came_out_before() -> None:
    steps = told(LINE, done(0, 1), Record(trace.SAME, 1, 1, 200, 5, "out", None), done(2, 3))
    assert [steps[name].input for name in "abc"] == ["in", 1, 1]
    assert [steps[name].output for name in "abc"] == [1, 1, 3]
    assert (steps["b"].started, steps["b"].took, steps["b"].attempts) == (200, 5, 1)
    story = story_of(LINE, "in", [done(0, 1), done(1, 2), done(2, 3)], ended=True)
    assert story.output == 3


def test_a_path_that_was_not_taken_is_skipped() -> None:
    plan = plan_of(
        node("c", "condition", {"when": "true"}), compute("y", "1"), compute("n", "1"), compute("after", "1"),
        links=edges("c>y>true", "c>n>false", "n>after"),
    )  # fmt: skip
    steps = told(plan, done(0, "in", "true"), done(1, 1))
    assert states(steps) == {"c": "done", "y": "done", "n": "skipped", "after": "skipped"}
    assert steps["c"].port == "true"


def test_attempts_that_failed_are_told_with_their_errors() -> None:
    again = Record(trace.RETRY, 0, 1, 10, 5, "", {"message": "one"}, {"again": 99.5, "logs": [[1, "info", "first"]]})
    steps = told(LINE, again, ended=False)
    assert (steps["a"].state, steps["a"].attempts, steps["a"].error) == ("retrying", 1, {"message": "one"})
    failed = Record(trace.FAILED, 0, 2, 40, 7, "", {"message": "two"}, {"logs": [[2, "info", "second"]]})
    steps = told(LINE, again, failed)
    step = steps["a"]
    assert (step.state, step.attempts, step.error, step.took) == ("failed", 2, {"message": "two"}, 37)
    assert [(one.attempt, one.error, one.again) for one in step.tries] == [(1, {"message": "one"}, 99.5)]
    assert [line[2] for line in step.logs] == ["first", "second"]
    assert steps["b"].state == "stopped"
    good = told(LINE, again, Record(trace.DONE, 0, 2, 40, 7, "out", 1))["a"]
    assert (good.state, good.attempts, good.error, len(good.tries)) == ("done", 2, None, 1)


@pytest.mark.parametrize(
    ("kind", "extra", "state"),
    [
        (trace.INTENT, None, "running"),
        (trace.PARKED, {"until": 5.0, "signals": ["event:x"], "ask": {"title": "?"}}, "waiting"),
        (trace.SPAWNED, {"spawn": ["", 1, 1, 1.0, False, None]}, "waiting"),
        (trace.UNVERIFIED, None, "unverified"),
    ],
)
def test_steps_under_way(kind: int, extra: Any, state: str) -> None:
    value = [1, 2, 3] if kind == trace.SPAWNED else None
    record = Record(kind, 0, 1, 10, 0, "", value, extra)
    step = told(LINE, record, ended=False)["a"]
    assert (step.state, step.attempts, step.input) == (state, 1, "in")
    if kind == trace.PARKED:
        assert (step.until, step.signals, step.ask) == (5.0, ["event:x"], {"title": "?"})
    assert step.items == (3 if kind == trace.SPAWNED else None)
    assert told(LINE, record)["a"].state == "stopped"
    woken = Record(trace.WOKEN, 0, 1, 20, 0, "", "by", {"kind": "signal", "signal": "x"})
    step = told(LINE, record, woken, ended=False)["a"]
    assert (step.state, step.until, step.started) == ("running", None, 10)
    ended = told(LINE, record, woken, Record(trace.DONE, 0, 1, 30, 4, "out", "out"))["a"]
    assert (ended.state, ended.started, ended.took) == ("done", 10, 24)


def test_the_first_edge_that_fires_decides_the_input_of_any() -> None:
    plan = plan_of(
        compute("a", "1"), compute("b", "2"), compute("c", "3", join="any"), links=edges("a>c", "b>c")
    )  # fmt: skip
    steps = told(plan, done(0, "first"), done(2, "third"), done(1, "second"))
    assert steps["c"].input == "first"
    both = plan_of(compute("a", "1"), compute("b", "2"), compute("c", "3"), links=edges("a>c", "b>c"))
    assert told(both, done(0, 1), done(1, 2), done(2, 3))["c"].input == {"a": 1, "b": 2}


def test_a_replay_keeps_what_was_before_and_begins_with_its_payload() -> None:
    seeded = Record(trace.SEEDED, 0, 1, 0, 0, "out", "kept")
    steps = told(LINE, seeded, done(1, 2), done(2, 3), payload="original", start=("b", "edited"))
    assert states(steps) == {"a": "kept", "b": "done", "c": "done"}
    assert (steps["a"].input, steps["a"].output, steps["a"].attempts) == ("original", "kept", 0)
    assert steps["b"].input == "edited"
    gone = told(LINE, done(0, 1), payload="original", start=("no such node", "edited"))
    assert gone["a"].input == "original"


def test_edges_that_had_conditions_fired_as_was_kept() -> None:
    links = [{"from": "a", "to": "b", "condition": "payload > 5"}, {"from": "a", "to": "c", "condition": "vars.x"}]
    plan = plan_of(compute("a", "1"), compute("b", "2"), compute("c", "3"), links=links)
    steps = told(plan, done(0, 1, fired=[0]), done(1, 2))
    assert states(steps) == {"a": "done", "b": "done", "c": "skipped"}
    # A replay on another version has no such note: what can be judged is, and what cannot counts as not fired.
    seeded = Record(trace.SEEDED, 0, 1, 0, 0, "out", 9)
    assert states(told(plan, seeded, done(1, 2), start=("b", 9))) == {"a": "kept", "b": "done", "c": "skipped"}


def test_records_that_fit_no_node_end_nothing() -> None:
    note = Record(trace.NOTE, 0, 0, 0, 0, "", "a line")
    steps = told(LINE, note, done(0, 1), done(77, 1))
    assert steps["a"].state == "done"
