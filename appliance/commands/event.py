"""``flowork event``."""

from __future__ import annotations

import click

from appliance.commands import _input as given
from appliance.commands._base import leaf
from appliance.commands._session import Session
from appliance.wording import counted


@leaf("flowork event delivered --payload '{\"parcel\": 7}'", "flowork event go --flow greenhouse", name="event")
@click.argument("name")
@click.option("--payload", help="JSON, @file or - for standard input.")
@click.option("--flow", default="", help="Only steps of this flow. [default: of all flows of the workspace]")
@given.workspace_option
def command(session: Session, name: str, payload: str | None, flow: str, workspace: str) -> None:
    """Send a named event to the steps that wait for it (node `wait_event`)."""
    if flow:
        session.store.flows.get(flow)
    value = given.json_argument(payload, "--payload")
    meta = {"by": session.identity.label}
    answer = session.call("signal", workspace=workspace, name=name, flow=flow, payload=value, meta=meta)
    session.audit("event.send", name, {"flow": flow, "woken": answer["woken"]}, workspace=workspace)
    session.done(answer, f"{counted(answer['woken'], 'step was', 'steps were')} waiting for it")
