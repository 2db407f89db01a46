"""``flowork answer``."""

from __future__ import annotations

import click

from appliance.commands import _input as given
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork answer 0S9V11PMM0000 valve yes --note 'checked the level'", name="answer")
@click.argument("run", type=given.RunId())
@click.argument("step")
@click.argument("answer", metavar="yes|no")
@click.option("--note", default="", help="Why; it is kept with the step.")
def command(session: Session, run: int, step: str, answer: str, note: str) -> None:
    """Answer an approval; `flowork approvals` lists them."""
    from appliance.store.runids import to_text

    text = to_text(run)
    session.call("answer", run=text, node=step, answer=answer, by=session.identity.label, note=note)
    session.audit("approval.answer", f"{text}/{step}", {"answer": answer, "note": note})
    session.done({"run": text, "step": step, "answer": answer}, f"{text} goes on")
