"""``flowork cancel``."""

from __future__ import annotations

import click

from appliance.commands import _input as given
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork cancel 0S9V11PMM0000", name="cancel")
@click.argument("run", type=given.RunId())
def command(session: Session, run: int) -> None:
    """Cancel a run that is under way: the work of its steps is ended, and so are the runs it has started."""
    from appliance.store.runids import to_text

    text = to_text(run)
    session.call("cancel", run=text, by=session.identity.label)
    session.audit("run.cancel", text)
    session.done({"cancelled": text}, f"cancelled {text}")
