"""``flowork decide``."""

from __future__ import annotations

import click

from appliance.commands import _input as given
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork decide 0S9V11PMM0000 pay skip", name="decide")
@click.argument("run", type=given.RunId())
@click.argument("step")
@click.argument("decision", type=click.Choice(["retry", "skip", "fail"]))
def command(session: Session, run: int, step: str, decision: str) -> None:
    """Say what becomes of a step that a crash cut off in the middle, when nobody can know whether it was done."""
    from appliance.store.runids import to_text

    text = to_text(run)
    session.call("decide", run=text, node=step, decision=decision, by=session.identity.label)
    session.audit("step.decide", f"{text}/{step}", {"decision": decision})
    session.done({"run": text, "step": step, "decision": decision}, f"{text} goes on: {decision}")
