"""What real runs of a real flow show, and what each rule makes of figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import RunFinding
from appliance.engine.flow import parse
from appliance.engine.plan import FlowPlan, plan_flow
from appliance.engine.validate import validate
from appliance.registry import Registry
from appliance.store.places import make_history
from appliance.workshop import rules
from appliance.workshop.analyst import analyse, gather
from appliance.workshop.evidence import Evidence, StepFacts, percentile
from tests.support.context import FakeWorld
from tests.support.flows import compute, edges, flow, node
from tests.support.house import House

REGISTRY = Registry().scan()


def test_the_runs_of_a_real_flow_are_counted_step_by_step(tmp_path: Path) -> None:
    body = flow(
        node("hot", "condition", {"when": "payload.t > 30"}),
        compute("ratio", "100 / payload.by"),
        node("never", "log", {"message": "cold"}),
        compute("large", "'x' * 100000"),
        links=edges("hot>ratio>true", "hot>never>false", "ratio>large"),
        triggers=[{"id": "form", "type": "manual", "config": {}}],
    )
    with House(tmp_path) as house:
        made = house.deploy(body)
        for by in [*([1] * 60), *([0] * 6)]:
            house.start(made, "form", {"t": 31, "by": by})
        history = make_history(tmp_path)
        try:
            version = house.store.flows.numbered(made.id)
            current = house.store.flows.get(made.id)
            plan = plan_flow(version.body, REGISTRY)
            seen = gather(history, current, version, plan)
            told = analyse(history, current, version, plan)
            few = analyse(history, current, version, plan, limit=10)
        finally:
            history.close()
    assert (seen.runs, seen.idle) == (66, 60)
    assert seen.steps["ratio"].failed == 6 and seen.steps["ratio"].done == 60
    assert seen.steps["never"].reached == 0 and seen.steps["large"].reached == 60
    assert percentile(seen.steps["large"].sizes, 0.5) > 100_000
    kinds = {finding.kind: finding for finding in told.findings}
    assert kinds["failing"].node == "ratio" and kinds["failing"].evidence["failed"] == 6
    assert "division" in kinds["failing"].text and len(kinds["failing"].runs) == 5
    assert kinds["unused"].node == "never" and kinds["oversized"].node == "large"
    assert told.version == 1 and told.runs == 66 and told.since > 0
    assert few.runs == 10 and "unused" not in {finding.kind for finding in few.findings}
    for finding in told.findings:
        assert finding.change is None or validate(finding.change, REGISTRY, FakeWorld()) == []


# --- the rules, with figures made up ---------------------------------------------------------------------

BODY = flow(
    node("get", "http_request", {"url": "http://example.com"}),
    node("look", "condition", {"when": "payload"}),
    node("send", "mqtt_publish", {"topic": "a"}),
    links=edges("get>look", "look>send>true"),
    triggers=[{"id": "clock", "type": "schedule", "config": {"every": "10s"}}],
)


def evidence(body: dict[str, Any], runs: int = 100, **steps: StepFacts) -> Evidence:
    plan: FlowPlan = plan_flow(body, REGISTRY)
    found = Evidence(plan.graphs[""], runs=runs)
    found.steps = {spec.id: steps.get(spec.id, StepFacts(reached=runs, done=runs)) for spec in parse(body).nodes}
    return found


def only(rule: Callable[..., Any], body: dict[str, Any], seen: Evidence) -> RunFinding:
    (finding,) = rule(body, seen)
    assert isinstance(finding, RunFinding)
    assert finding.change is None or validate(finding.change, REGISTRY, FakeWorld()) == []
    return finding


def failed(error: str, **more: Any) -> StepFacts:
    facts = StepFacts(reached=100, done=90, failed=10, tries=10, **more)
    facts.errors[(error, "no answer")] = 10
    return facts


def changed(finding: RunFinding, name: str) -> dict[str, Any]:
    assert finding.change is not None
    found: dict[str, Any] = next(one for one in finding.change["nodes"] if one["id"] == name)
    return found


def test_a_step_that_fails_without_retries_is_given_some() -> None:
    finding = only(rules.failing, BODY, evidence(BODY, get=failed("node-failed")))
    assert finding.title == "get fails in 10% of its runs"
    assert changed(finding, "get")["retry"] == {"attempts": 3, "backoff": "2s"}


def test_a_step_that_never_worked_is_not_just_tried_again() -> None:
    facts = StepFacts(reached=10, failed=10, tries=10)
    facts.errors[("node-failed", "no answer")] = 10
    finding = only(rules.failing, BODY, evidence(BODY, get=facts))
    assert finding.change is None and "It has never worked" in finding.suggestion


def test_a_timeout_that_is_too_short_is_doubled() -> None:
    body = {**BODY, "nodes": [{**BODY["nodes"][0], "timeout": "5s"}, *BODY["nodes"][1:]]}
    finding = only(rules.failing, body, evidence(body, get=failed("timed-out")))
    assert changed(finding, "get")["timeout"] == 10.0


def test_against_a_wrong_config_nothing_is_tried_again() -> None:
    finding = only(rules.failing, BODY, evidence(BODY, get=failed("bad-config")))
    assert finding.change is None and "does not help" in finding.suggestion


def test_few_failures_are_no_finding() -> None:
    facts = StepFacts(reached=1000, done=998, failed=2)
    facts.errors[("x", "y")] = 2
    assert list(rules.failing(BODY, evidence(BODY, get=facts))) == []


def test_retries_that_never_helped_are_taken_away() -> None:
    retried = {**BODY["nodes"][0], "retry": {"attempts": 4}}
    body = {**BODY, "nodes": [retried, *BODY["nodes"][1:]]}
    facts = failed("node-failed")
    facts.tries = 40
    finding = only(rules.vain_retries, body, evidence(body, get=facts))
    assert finding.evidence["repetitions"] == 30 and "retry" not in changed(finding, "get")
    facts.rescued = 1
    assert list(rules.vain_retries(body, evidence(body, get=facts))) == []


def test_the_slow_step_is_named_with_its_share() -> None:
    slow = StepFacts(reached=100, done=100, took=[2.0] * 100, slow_runs=[(2.0, "r1")])
    quick = StepFacts(reached=100, done=100, took=[0.01] * 100)
    finding = only(rules.slow, BODY, evidence(BODY, get=slow, send=quick))
    assert finding.node == "get" and finding.evidence["share"] > 0.99 and finding.runs == ["r1"]


def test_a_step_that_sometimes_hangs_gets_a_timeout() -> None:
    hangs = StepFacts(reached=100, done=100, took=[0.1] * 97 + [60.0] * 3)
    found = {finding.title: finding for finding in rules.slow(BODY, evidence(BODY, get=hangs))}
    assert changed(found["get sometimes hangs"], "get")["timeout"] == 1


@pytest.mark.parametrize(("mode", "can_change"), [("parallel", True), ("queued", False)])
def test_runs_that_wait_for_their_turn(mode: str, can_change: bool) -> None:
    body = {**BODY, "settings": {"mode": mode, "max_runs": 2}}
    seen = evidence(body)
    seen.waits, seen.durations = [5.0] * 100, [0.5] * 100
    finding = only(rules.queueing, body, seen)
    assert (finding.change is not None) is can_change
    if finding.change is not None:
        assert finding.change["settings"]["max_runs"] == 4


def test_what_was_never_reached_is_taken_out_with_all_behind_it() -> None:
    more = node("after", "log", {"message": "sent"})
    body = {**BODY, "nodes": [*BODY["nodes"], more], "edges": [*BODY["edges"], {"from": "send", "to": "after"}]}
    seen = evidence(body, send=StepFacts(), after=StepFacts())
    finding = only(rules.unused, body, seen)
    assert finding.node == "send" and finding.evidence["nodes"] == ["after", "send"]
    assert finding.change is not None
    assert [one["id"] for one in finding.change["nodes"]] == ["get", "look"]
    assert list(rules.unused(body, evidence(body, runs=20, send=StepFacts()))) == []


def test_a_way_for_errors_that_was_never_needed_is_well() -> None:
    body = {**BODY, "edges": [{"from": "get", "to": "look"}, {"from": "get", "to": "send", "port": "error"}]}
    assert list(rules.unused(body, evidence(body, send=StepFacts()))) == []


def test_a_clock_that_finds_nothing_to_do_is_slowed() -> None:
    seen = evidence(BODY)
    seen.idle = 99
    finding = only(rules.idle_polling, BODY, seen)
    assert finding.change is not None and finding.change["triggers"][0]["config"]["every"] == 40.0
    seen.idle = 50
    assert list(rules.idle_polling(BODY, seen)) == []


def test_an_effect_that_was_cut_off_may_be_repeated() -> None:
    finding = only(rules.unverified, BODY, evidence(BODY, send=StepFacts(reached=9, unverified=2)))
    assert changed(finding, "send")["on_crash"] == "retry"


def test_large_values_are_told_and_kept_for_less_time() -> None:
    facts = StepFacts(reached=10, done=10, sizes=[200_000] * 10)
    finding = only(rules.oversized, BODY, evidence(BODY, get=facts))
    assert "200 kB" in finding.title
    assert finding.change is not None and finding.change["settings"]["history"] == {"days": 3}
    assert finding.suggestion.endswith("; or keep this flow's runs for 3 days only.")
    bounded = {**BODY, "settings": {"history": {"days": 9}}}
    finding = only(rules.oversized, bounded, evidence(bounded, get=facts))
    assert finding.change is None and finding.suggestion.endswith("what later steps need.")


def test_the_weightiest_finding_comes_first_and_no_runs_show_nothing() -> None:
    seen = evidence(BODY, get=failed("bad-config"), send=StepFacts())
    assert [finding.kind for finding in rules.findings(BODY, seen)] == ["failing", "unused"]
    assert rules.findings(BODY, evidence(BODY, runs=0)) == []
