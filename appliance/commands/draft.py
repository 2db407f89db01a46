"""``flowork draft``: a flow from a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session
from appliance.kernel.wire import LONGEST_DRAFT
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.store.records import Version


@leaf(
    'flowork draft "Tell me when the greenhouse is over 30 degrees for two minutes"',
    "flowork flow show greenhouse --spec > greenhouse.md",
    "flowork draft --spec greenhouse.md --flow greenhouse --save",
    name="draft",
)
@click.argument("text", default="")
@click.option("--spec", "spec_file", default="", metavar="FILE", help="An (edited) spec in markdown; `-` reads it.")
@click.option("--flow", "flow_id", default="", metavar="FLOW", help="A flow that is to be changed.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="May be given several times: tried in turn.")
@click.option("--repairs", type=click.IntRange(0, 10), default=3, show_default=True, help="Times that it may mend it.")
@click.option("--out", "target", default="", metavar="FILE", help="Write the flow's JSON there.")
@click.option("--save", is_flag=True, help="Save it as a draft, which starts nothing.")
@given.workspace_option
def command(
    session: Session,
    text: str,
    spec_file: str,
    flow_id: str,
    models: tuple[str, ...],
    repairs: int,
    target: str,
    save: bool,
    workspace: str,
) -> int:
    """Draft a flow from a sentence or a spec, with a model; show it with a dry run. Nothing is ever deployed."""
    if not text and not spec_file:
        raise click.UsageError("say what the flow has to do, or give its --spec")
    spec = given.read_text(spec_file) if spec_file else ""
    old = session.store.flows.numbered(flow_id) if flow_id else None
    session.note("drafting; a small model on a small box takes some minutes")
    asked = {"text": text, "spec": spec, "flow": old.body if old else None, "models": list(models), "repairs": repairs}
    draft = session.call("draft", LONGEST_DRAFT + 10, workspace=workspace, **asked)
    dry = None if draft["problems"] else _rehearsed(session, draft, workspace)
    if target:
        Path(target).write_text(out.encode(draft["flow"]) + "\n", encoding="utf-8")
    saved = _saved(session, draft["flow"], flow_id, old, workspace) if save else None
    if session.as_json:
        out.emit({**draft, "dry_run": dry, "saved": saved})
    else:
        _show(draft, dry, saved, target)
    return 1 if draft["problems"] else 0


def _rehearsed(session: Session, draft: dict[str, Any], workspace: str) -> list[dict[str, Any]]:
    told = session.call("rehearse", 600.0, flow=draft["flow"], payload=draft["sample"], event={}, workspace=workspace)
    steps: list[dict[str, Any]] = told["steps"]
    return steps


def _saved(session: Session, flow: dict[str, Any], flow_id: str, old: Version | None, workspace: str) -> dict[str, Any]:
    made = session.book.save(
        flow,
        by=session.identity,
        flow_id=flow_id or None,
        base=old.number if old else None,
        workspace=workspace,
        message="drafted by a model",
        draft=True,
    )
    return {"flow": made.flow.id, "version": made.version.number}


def _show(draft: dict[str, Any], dry: list[dict[str, Any]] | None, saved: dict[str, Any] | None, target: str) -> None:
    out.say(out.plain_lines(draft["spec"]))
    for problem in draft["problems"]:
        out.say(f"Fault: {out.plain(problem['path'])}: {out.plain(problem['message'])}", color="red")
    if dry:
        out.say(f"Dry run with {out.short(draft['sample'])}:", bold=True)
        rows = [(step["node"], step["outcome"], out.short(_given(step))) for step in dry]
        out.table(("step", "outcome", "gives"), rows)
    cost = f", {draft['cost']:.4f} $" if draft["cost"] else ""
    used = f"{counted(draft['answers'], 'answer')}, {counted(draft['tokens'], 'token')}"
    out.say(f"by {out.plain(draft['model'])}: {used}{cost}")
    if target:
        out.say(f"written to {out.plain(target)}")
    if saved:
        out.say(out.saved_draft(saved))
    elif not target:
        out.say("nothing was saved; keep it with --save or --out FILE")


def _given(step: dict[str, Any]) -> Any:
    """What a step of the dry run gave, or would do it with."""
    if step["outcome"] == "failed":
        return step["error"].get("message", "")
    return step["output"] if step["outcome"] == "done" else step.get("config")
