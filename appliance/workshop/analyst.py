"""Looks at a flow's newest runs and says what they have shown: reads the history, asks the rules."""

from __future__ import annotations

import msgspec

from appliance.contracts import Analysis, ChatRequest, Models, NodeError
from appliance.engine.plan import FlowPlan
from appliance.engine.states import RunState
from appliance.store.errors import StoreError
from appliance.store.history import History, RunFilter, RunHead
from appliance.store.records import Flow, Version
from appliance.store.runids import to_text
from appliance.workshop.evidence import Evidence
from appliance.workshop.rules import findings

#: Runs that are looked at unless another number is asked for, and at most.
RUNS = 500
MOST_RUNS = 5_000
#: Bytes of findings that a model is shown.
_SHOWN = 12_000

_TASK = """\
You explain to the owner of an automation flow what its runs have shown. You get findings as JSON. In at most five
plain sentences say what matters most and what to do first. Use only what the findings say."""


def gather(
    history: History,
    flow: Flow,
    version: Version,
    plan: FlowPlan,
    limit: int = RUNS,
) -> Evidence:
    """The evidence of the newest runs that ended, of this version.

    Runs whose records are damaged are left out.
    """
    evidence = Evidence(plan.graphs[""])
    cursor: int | None = None
    while evidence.runs < limit:
        page = history.page(RunFilter(flows=[flow.num]), cursor, 200)
        for head in page.items:
            if head.version == version.id and not RunState(head.state).under_way and evidence.runs < limit:
                _take(evidence, history, head)
        cursor = page.next
        if cursor is None or not any(head.version == version.id for head in page.items):
            break  # what is older belongs to other versions
    return evidence


def _take(evidence: Evidence, history: History, head: RunHead) -> None:
    try:
        detail = history.detail(head.id)
    except StoreError:
        return
    if detail is not None:
        evidence.add(to_text(head.id), head, detail.story(evidence.plan), detail.records)


def analyse(
    history: History,
    flow: Flow,
    version: Version,
    plan: FlowPlan,
    limit: int = RUNS,
) -> Analysis:
    """What the newest runs of a version have shown, by the rules alone."""
    evidence = gather(history, flow, version, plan, min(limit, MOST_RUNS))
    return Analysis(
        flow=flow.id,
        version=version.number,
        runs=evidence.runs,
        since=evidence.since,
        findings=findings(version.body, evidence),
    )


async def worded(analysis: Analysis, models: Models, names: tuple[str, ...]) -> Analysis:
    """The analysis with a model's summary. Raises what ``Models.chat`` raises, ``NodeError`` for an empty answer."""
    if not analysis.findings:
        return analysis
    shown = [
        {"title": one.title, "text": one.text, "evidence": one.evidence, "suggestion": one.suggestion}
        for one in analysis.findings
    ]
    facts = msgspec.json.encode({"flow": analysis.flow, "runs": analysis.runs, "findings": shown}).decode()[:_SHOWN]
    messages = [{"role": "system", "content": _TASK}, {"role": "user", "content": facts}]
    reply = await models.chat(ChatRequest(messages=messages, models=names, max_tokens=400, shared=1))
    if not reply.text.strip():
        raise NodeError(f"{reply.model} gave an empty answer")
    return msgspec.structs.replace(analysis, words=reply.text.strip())
