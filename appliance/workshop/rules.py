"""What the figures of a flow's runs mean, each with its evidence and, where a change of the flow helps, that change.

A rule is a function from the flow and the evidence to findings. Nothing here asks a model, a clock or a disk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from appliance.contracts import ConfigError, RunFinding, seconds
from appliance.engine.plan import PlannedNode
from appliance.engine.validate import ERROR_PORT
from appliance.workshop.evidence import Evidence, StepFacts, percentile

Flow = Mapping[str, Any]
Rule = Callable[[Flow, Evidence], Iterator[RunFinding]]

#: Runs that must have been seen before something counts as never happening.
ENOUGH = 50
#: Failures of a step, and their share of its runs, from which they are told.
_FAILURES, _FAILURE_SHARE = 3, 0.02
#: A step is slow that takes so many seconds and this share of the whole time.
_SLOW, _SLOW_SHARE = 1.0, 0.5
#: Bytes that a step hands on, usually, from which they are told.
_LARGE = 64_000
#: Days for which runs of a flow with large results are kept, where nothing is said of that yet.
_DAYS = 3
_WAIT = 1.0
_IDLE_SHARE = 0.9


def findings(flow: Flow, evidence: Evidence) -> list[RunFinding]:
    """All that the rules find, the weightiest first."""
    found = [finding for rule in RULES for finding in rule(flow, evidence)] if evidence.runs else []
    return sorted(found, key=lambda finding: -finding.weight)


def failing(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Steps that fail, with what is known to help against their commonest error."""
    for node, facts in _steps(evidence):
        share = facts.failed / facts.reached
        if facts.failed < _FAILURES or share < _FAILURE_SHARE:
            continue
        (kind, message), count = facts.errors.most_common(1)[0]
        suggestion, change = _against(flow, node, facts, kind)
        yield RunFinding(
            kind="failing",
            title=f"{node.id} fails in {share:.0%} of its runs",
            text=f"Of {facts.reached} times it failed for good {facts.failed}; mostly: {message}",
            weight=min(1.0, 0.4 + share),
            node=node.id,
            evidence={
                "reached": facts.reached,
                "failed": facts.failed,
                "attempts_failed": facts.tries,
                "error": kind,
                "message": message,
                "of_this_error": count,
            },
            runs=facts.failed_runs,
            suggestion=suggestion,
            change=change,
        )


def _against(flow: Flow, node: PlannedNode, facts: StepFacts, error: str) -> tuple[str, dict[str, Any] | None]:
    """What to do about a step that fails with this error."""
    if error == "timed-out" and node.timeout is not None:
        longer = node.timeout * 2
        return f"Give it {longer:g} seconds instead of {node.timeout:g}.", _with_node(flow, node.id, timeout=longer)
    if not facts.done and error not in _HOPELESS:
        return "It has never worked in these runs: mend its settings, or what it needs.", None
    if node.retry.attempts == 1 and error not in _HOPELESS:
        retry = {"attempts": 3, "backoff": "2s"}
        return "Let it be tried up to three times: such errors often pass.", _with_node(flow, node.id, retry=retry)
    if error in _HOPELESS:
        return "Trying again does not help against this error: mend the step's settings or what comes in.", None
    if not node.wired_error:
        return "Wire its error port to a step that handles the failure, so that the run goes on.", None
    return "", None


_HOPELESS = {"bad-config", "bad-expression"}


def vain_retries(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Retries that have never once helped."""
    for node, facts in _steps(evidence):
        again = facts.tries - facts.failed
        if node.retry.attempts < 2 or facts.failed < _FAILURES or facts.rescued or again < _FAILURES:
            continue
        yield RunFinding(
            kind="wasteful",
            title=f"Trying {node.id} again never helped",
            text=f"{again} repetitions in {facts.failed} failed runs, and none of them succeeded.",
            weight=0.3,
            node=node.id,
            evidence={"repetitions": again, "rescued": 0, "failed": facts.failed},
            runs=facts.failed_runs,
            suggestion="Try it once only, and handle the failure at its error port.",
            change=_with_node(flow, node.id, retry=None),
        )


def slow(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Steps that take most of the time, and steps that sometimes hang."""
    total = sum(sum(facts.took) for facts in evidence.steps.values())
    for node, facts in _steps(evidence):
        usual, late = percentile(facts.took, 0.5), percentile(facts.took, 0.95)
        share = sum(facts.took) / total if total else 0.0
        figures = {"median_s": usual, "p95_s": late, "share": round(share, 3), "measured": len(facts.took)}
        examples = [run for _, run in facts.slow_runs]
        if late >= _SLOW and share >= _SLOW_SHARE:
            yield RunFinding(
                kind="slow",
                title=f"{node.id} takes {share:.0%} of the time",
                text=f"Usually {_time(usual)}, in the slowest twentieth of its runs {_time(late)} or more.",
                weight=0.3 + 0.3 * share,
                node=node.id,
                evidence=figures,
                runs=examples,
                suggestion="Look at what it waits for; steps that do not need its result can stand beside it.",
            )
        longest = percentile(facts.took, 0.99)
        if len(facts.took) >= ENOUGH and node.timeout is None and longest >= 5.0 and longest > 20 * max(usual, 0.01):
            limit = max(1, round(usual * 10))
            yield RunFinding(
                kind="slow",
                title=f"{node.id} sometimes hangs",
                text=f"Usually {_time(usual)}, but now and then {_time(longest)}; it has no timeout.",
                weight=0.35,
                node=node.id,
                evidence={**figures, "p99_s": longest},
                runs=examples,
                suggestion=f"End it after {limit} s and try it again.",
                change=_with_node(flow, node.id, timeout=limit, retry={"attempts": 3, "backoff": "2s"}),
            )


def queueing(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Runs that wait for their turn longer than they work."""
    late, usual = percentile(evidence.waits, 0.95), percentile(evidence.durations, 0.5)
    settings = evidence.plan.settings
    if late < _WAIT or late < usual:
        return
    more = settings.max_runs * 2
    change = _with_settings(flow, max_runs=more) if settings.mode == "parallel" else None
    yield RunFinding(
        kind="slow",
        title="Runs wait for their turn",
        text=f"A twentieth of them waits {_time(late)} or more before the first step; a run takes {_time(usual)}.",
        weight=0.5,
        evidence={"wait_p95_s": late, "run_median_s": usual, "mode": settings.mode, "max_runs": settings.max_runs},
        suggestion=f"Let {more} run at a time instead of {settings.max_runs}."
        if change
        else f"The flow's mode is {settings.mode}: let runs go in parallel if their order does not matter.",
        change=change,
    )


def unused(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Ways that were never taken, other than those for errors."""
    if evidence.runs < ENOUGH:
        return
    never = {node.id for node in evidence.plan.nodes if not _facts(evidence, node).reached}
    spared = _only_behind_errors(evidence)
    for node in evidence.plan.nodes:
        if node.id in spared or node.id not in never:
            continue
        sources = [each for each in evidence.plan.nodes if any(edge.target == node.index for edge in each.out)]
        if all(source.id in never for source in sources) and sources:
            continue  # the first one on the way stands for all behind it
        gone = {evidence.plan.nodes[index].id for index in evidence.plan.downstream(node.index)} & never
        yield RunFinding(
            kind="unused",
            title=f"{node.id} was never reached",
            text=f"In {evidence.runs} runs no way led to {_list(sorted(gone))}.",
            weight=0.2,
            node=node.id,
            evidence={"runs": evidence.runs, "reached": 0, "nodes": sorted(gone)},
            suggestion="Check the condition before it, or take it out.",
            change=_without(flow, gone),
        )


def oversized(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Steps that hand on far more than flows usually do: every copy is kept with the run."""
    for node, facts in _steps(evidence):
        usual, most = percentile(facts.sizes, 0.5), max(facts.sizes, default=0)
        change = None if "history" in flow.get("settings", {}) else _with_settings(flow, history={"days": _DAYS})
        if usual < _LARGE and most < 20 * _LARGE:
            continue
        yield RunFinding(
            kind="oversized",
            title=f"{node.id} hands on {_bytes(usual)}",
            text=f"Usually {_bytes(usual)}, at most {_bytes(most)}; all of it is written to the disk with every run.",
            weight=0.25 + min(0.3, usual / 10_000_000),
            node=node.id,
            evidence={"median_bytes": int(usual), "most_bytes": most, "measured": len(facts.sizes)},
            suggestion="Put a Transform behind it that keeps what later steps need"
            + (f"; or keep this flow's runs for {_DAYS} days only." if change else "."),
            change=change,
        )


def idle_polling(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """A clock that starts runs which then do nothing."""
    if evidence.runs < ENOUGH or evidence.idle < _IDLE_SHARE * evidence.runs:
        return
    if not any(node.fenced for node in evidence.plan.nodes):
        return  # it never does anything outside, and is not meant to
    for index, trigger in enumerate(flow.get("triggers", [])):
        every = trigger.get("config", {}).get("every")
        if trigger.get("type") != "schedule" or not every:
            continue
        try:
            pause = seconds(every)
        except ConfigError:
            continue
        if pause > 300:
            continue
        slower = pause * 4
        yield RunFinding(
            kind="wasteful",
            title=f"{evidence.idle} of {evidence.runs} runs did nothing",
            text=f"A clock starts one every {pause:g} s, and nearly all of them find nothing to do.",
            weight=0.3,
            evidence={"runs": evidence.runs, "did_nothing": evidence.idle, "every_s": pause},
            suggestion=f"Start it every {slower:g} s, or by what really happens (a message, a file, a device).",
            change=_with_trigger(flow, index, every=slower),
        )


def repeated_questions(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Model steps that are asked the same again and again, at a temperature at which the answer is not kept."""
    for node, facts in _steps(evidence):
        config = node.spec.config
        repeated = sum(count - 1 for count in facts.inputs.values())
        if "prompt" not in config or not config.get("temperature") or facts.reached < ENOUGH:
            continue
        if repeated < 0.5 * facts.reached:
            continue
        yield RunFinding(
            kind="wasteful",
            title=f"{node.id} is asked the same again and again",
            text=f"{repeated} of {facts.reached} questions had been asked before.",
            weight=0.35,
            node=node.id,
            evidence={"asked": facts.reached, "repeated": repeated},
            suggestion="With temperature 0 the same question is answered from memory.",
            change=_with_node(flow, node.id, config={**config, "temperature": 0}),
        )


def unverified(flow: Flow, evidence: Evidence) -> Iterator[RunFinding]:
    """Effects that a crash cut off, and that wait for a person each time."""
    for node, facts in _steps(evidence):
        if facts.unverified:
            yield RunFinding(
                kind="failing",
                title=f"{node.id} was cut off {'once' if facts.unverified == 1 else f'{facts.unverified} times'}",
                text="Nobody knows whether it did what it does; each such run waits for a person.",
                weight=0.6,
                node=node.id,
                evidence={"unverified": facts.unverified, "reached": facts.reached},
                suggestion="If doing it twice does no harm, let it be tried again after a crash.",
                change=_with_node(flow, node.id, on_crash="retry"),
            )


RULES: tuple[Rule, ...] = (
    failing,
    unverified,
    vain_retries,
    slow,
    queueing,
    unused,
    oversized,
    idle_polling,
    repeated_questions,
)


def _steps(evidence: Evidence) -> Iterator[tuple[PlannedNode, StepFacts]]:
    for node in evidence.plan.nodes:
        facts = _facts(evidence, node)
        if facts.reached:
            yield node, facts


def _facts(evidence: Evidence, node: PlannedNode) -> StepFacts:
    return evidence.steps.get(node.id, StepFacts())


def _only_behind_errors(evidence: Evidence) -> set[str]:
    """Nodes to which only error ports lead: it is well that they were never reached."""
    plan = evidence.plan
    usual, stack = set(plan.starts), list(plan.starts)
    while stack:
        for edge in plan.nodes[stack.pop()].out:
            if edge.port != ERROR_PORT and edge.target not in usual:
                usual.add(edge.target)
                stack.append(edge.target)
    return {node.id for node in plan.nodes if node.index not in usual}


# --- changes of the flow -------------------------------------------------------------------------------


def _with_node(flow: Flow, name: str, **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(dict(flow))
    for node in changed["nodes"]:
        if node["id"] == name:
            for key, value in changes.items():
                if value is None:
                    node.pop(key, None)
                else:
                    node[key] = value
    return changed


def _with_settings(flow: Flow, **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(dict(flow))
    changed["settings"] = {**changed.get("settings", {}), **changes}
    return changed


def _with_trigger(flow: Flow, index: int, **config: Any) -> dict[str, Any]:
    changed = copy.deepcopy(dict(flow))
    trigger = changed["triggers"][index]
    trigger["config"] = {**trigger.get("config", {}), **config}
    return changed


def _without(flow: Flow, gone: set[str]) -> dict[str, Any] | None:
    changed = copy.deepcopy(dict(flow))
    changed["nodes"] = [node for node in changed["nodes"] if node["id"] not in gone]
    changed["edges"] = [e for e in changed.get("edges", []) if e["from"] not in gone and e["to"] not in gone]
    return changed if changed["nodes"] else None


# --- words ---------------------------------------------------------------------------------------------


def _time(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _bytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
