"""``flowork analyze``: what a flow's runs have shown."""

from __future__ import annotations

import click
import msgspec

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session
from appliance.contracts import Analysis, FlowError
from appliance.kernel.wire import LONGEST_DRAFT
from appliance.wording import counted


@leaf("flowork analyze greenhouse", "flowork analyze greenhouse --runs 2000 --words", name="analyze")
@click.argument("flow_id", metavar="FLOW")
@click.option("--runs", type=click.IntRange(1, 5_000), default=500, show_default=True, help="How many of the newest.")
@click.option("--words", is_flag=True, help="Have a model sum it up (needs a running kernel).")
@click.option("--model", default="", metavar="NAME", help="Which model. [default: the engine's]")
@click.option("--apply", "number", type=click.IntRange(1), help="Save the change of this finding as a draft.")
def command(session: Session, flow_id: str, runs: int, words: bool, model: str, number: int | None) -> None:
    """Say what is slow, failing, never taken, oversized or wasteful in a flow's newest runs, and what to do."""
    analysis = _worded(session, flow_id, runs, model) if words else _looked(session, flow_id, runs)
    saved = None if number is None else _applied(session, analysis, number)
    if session.as_json:
        out.emit({**msgspec.to_builtins(analysis), "saved": saved})
        return
    if not analysis.runs:
        out.say(f"version {analysis.version} has not run yet")
        return
    out.say(f"{counted(analysis.runs, 'run')} of version {analysis.version} since {out.moment(analysis.since)}")
    if analysis.words:
        out.say(out.plain_lines(analysis.words))
    for place, finding in enumerate(analysis.findings, 1):
        out.say(f"{place}. {out.plain(finding.title)} ({finding.kind})", bold=True)
        out.say(f"   {out.plain(finding.text)}")
        if finding.suggestion:
            can = f" [--apply {place}]" if finding.change else ""
            out.say(f"   {out.plain(finding.suggestion)}{can}")
        if finding.runs:
            out.say(f"   for example: flowork show {finding.runs[0]}")
    if not analysis.findings:
        out.say("nothing to complain of")
    if saved:
        out.say(out.saved_draft(saved))


def _looked(session: Session, flow_id: str, runs: int) -> Analysis:
    from appliance.engine.plan import plan_flow
    from appliance.store.errors import NotFound
    from appliance.workshop.analyst import analyse

    flow = session.store.flows.get(flow_id)
    if flow.live_number is None:
        raise NotFound(f"the flow {flow_id!r} is not deployed: only a live version has runs to look at")
    version = session.store.flows.numbered(flow_id, flow.live_number)
    return analyse(session.history, flow, version, plan_flow(version.body, session.registry), runs)


def _worded(session: Session, flow_id: str, runs: int, model: str) -> Analysis:
    """With a model's summary; where none gives one, what the rules have found is told all the same."""
    from appliance.kernel.client import KernelAway

    workspace = session.store.flows.get(flow_id).workspace
    asked = {"flow": flow_id, "workspace": workspace, "runs": runs, "models": [model] if model else []}
    try:
        return msgspec.convert(session.call("analyse", LONGEST_DRAFT, **asked), Analysis)
    except KernelAway:
        raise
    except FlowError as exc:
        found = _looked(session, flow_id, runs)
        session.note(f"no model sums it up: {exc.message}")
        return found


def _applied(session: Session, analysis: Analysis, number: int) -> dict[str, object]:
    if number > len(analysis.findings):
        last = f"the last one is {len(analysis.findings)}" if analysis.findings else "nothing was found"
        raise click.UsageError(f"there is no finding {number}; {last}")
    finding = analysis.findings[number - 1]
    if finding.change is None:
        raise click.UsageError(f"finding {number} has no change that can be applied: {finding.suggestion}")
    made = session.book.save(
        finding.change,
        by=session.identity,
        flow_id=analysis.flow,
        base=analysis.version,
        message=finding.suggestion[:200],
        draft=True,
    )
    return {"flow": made.flow.id, "version": made.version.number}
