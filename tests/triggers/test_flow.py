"""The flow trigger: whose ends it follows, and that circles stop."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts import ConfigError, RunEnded, decode
from appliance.triggers.flow import DEEPEST, Flow, FlowConfig
from tests.support.context import FakeWorld
from tests.support.triggers import FakeTriggerContext, attach


def end(flow: str = "other", state: str = "succeeded", run: str = "r1", **meta: Any) -> RunEnded:
    return RunEnded(flow, run, state, {"t": 1}, None, meta)


def test_an_end_starts_a_run_that_knows_of_it() -> None:
    ctx = FakeTriggerContext(flow="me")
    attach(Flow(), {"flow": "other"}, ctx)
    ctx.end_run(end())
    (event,) = ctx.runs
    assert event.payload == {"flow": "other", "run": "r1", "state": "succeeded", "output": {"t": 1}, "error": None}
    assert event.meta == {"flow": "other", "run": "r1", "state": "succeeded", "depth": 1}


@pytest.mark.parametrize(
    ("config", "flow", "state", "starts"),
    [
        ({"flow": "other"}, "other", "succeeded", True),
        ({"flow": "other"}, "other", "failed", False),
        ({"flow": "other"}, "third", "succeeded", False),
        ({"flow": ["a", "third"]}, "third", "succeeded", True),
        ({}, "any", "succeeded", True),
        ({}, "me", "succeeded", False),
        ({"flow": "me"}, "me", "succeeded", False),
        ({"on": ["failed", "dead"]}, "any", "dead", True),
        ({"on": ["failed", "dead"]}, "any", "cancelled", False),
        ({"on": ["cancelled"]}, "any", "cancelled", True),
    ],
)
def test_which_ends_count(config: dict[str, Any], flow: str, state: str, starts: bool) -> None:
    ctx = FakeTriggerContext(flow="me")
    attach(Flow(), config, ctx)
    ctx.end_run(end(flow, state))
    assert bool(ctx.runs) is starts


def test_one_end_starts_one_run_and_another_end_of_that_run_another() -> None:
    ctx = FakeTriggerContext(flow="me")
    attach(Flow(), {"on": ["dead", "succeeded"]}, ctx)
    for state in ("dead", "dead", "succeeded"):
        ctx.end_run(end(state=state))
    assert [event.payload["state"] for event in ctx.runs] == ["dead", "succeeded"]


def test_flows_that_start_each_other_stop() -> None:
    flows = [FakeTriggerContext(flow="one"), FakeTriggerContext(flow="two")]
    for ctx in flows:
        attach(Flow(), {}, ctx)
    ended = end("two", run="first")
    for number in range(100):
        ctx = flows[number % 2]
        count = len(ctx.runs)
        ctx.end_run(ended)
        if len(ctx.runs) == count:
            break
        ended = RunEnded(ctx.flow, f"run-{number}", "succeeded", None, None, ctx.runs[-1].meta)
    assert sum(len(ctx.runs) for ctx in flows) == DEEPEST
    assert "circle" in ctx.states[-1][1]


def test_a_depth_that_somebody_made_up_does_no_harm() -> None:
    ctx = FakeTriggerContext(flow="me")
    attach(Flow(), {}, ctx)
    ctx.end_run(end(depth="deep"))
    assert ctx.runs[0].meta["depth"] == 1


def test_a_full_queue_delays_and_loses_nothing() -> None:
    ctx = FakeTriggerContext(flow="me", room=0, retry_after=2.0)
    attach(Flow(), {}, ctx)
    ctx.end_run(end(run="r1"))
    ctx.end_run(end(run="r2"))
    ctx.advance(5)
    assert ctx.runs == []
    ctx.room = None
    ctx.advance(2)
    assert [event.payload["run"] for event in ctx.runs] == ["r1", "r2"]


def test_detached_it_hears_nothing() -> None:
    ctx = FakeTriggerContext(flow="me")
    detach = attach(Flow(), {}, ctx)
    detach()
    detach()
    ctx.end_run(end())
    assert ctx.events == []


def test_a_flow_that_does_not_exist_is_found_on_save() -> None:
    world = FakeWorld(flows=frozenset({"a"}))
    assert list(Flow().check({"flow": "a"}, world)) == []
    assert list(Flow().check({}, world)) == []
    assert list(Flow().check({"flow": "{{ vars.flow }}"}, world)) == []
    assert [problem.path for problem in Flow().check({"flow": "b"}, world)] == ["flow"]
    assert [problem.path for problem in Flow().check({"flow": ["a", "b"]}, world)] == ["flow[1]"]


@pytest.mark.parametrize("config", [{"flow": ""}, {"flow": []}, {"on": []}, {"on": ["started"]}])
def test_a_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        decode(FlowConfig, config)
