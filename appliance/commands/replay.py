"""``flowork replay``: a past run again, from any step."""

from __future__ import annotations

from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf(
    "flowork replay 0S9V11PMM0000 --from greeting --follow",
    'flowork replay 0S9V11PMM0000 --payload \'{"name": "Ada"}\' --live',
    name="replay",
)
@click.argument("run", type=given.RunId())
@click.option("--from", "start", default="", help="The step to begin at. [default: the whole run]")
@click.option("--payload", help="What goes in instead: JSON, @file, or - for standard input.")
@click.option("--live", is_flag=True, help="With the live version instead of the one that ran.")
@click.option("--follow", "-f", is_flag=True, help="Show each step as it happens.")
@click.option("--timeout", type=given.Length(), help="Stop waiting after this long.")
def command(
    session: Session, run: int, start: str, payload: str | None, live: bool, follow: bool, timeout: float | None
) -> int:
    """Run a past run again as a new run, and wait for its end; the exit code tells how it ended.

    What happened before the step --from is taken over as it was. A dead letter counts as replayed.
    """
    from appliance.commands._engine import kernel
    from appliance.commands._follow import see_through
    from appliance.commands._runs import reader
    from appliance.store.runids import to_text

    session.need_engine()
    params: dict[str, Any] = {"run": to_text(run), "from": start, "by": session.identity.label}
    if payload is not None:
        params["payload"] = given.json_argument(payload, "--payload")
    if live:
        params["version"] = "live"
    with kernel(session) as client:

        def begin() -> str:
            return str(client.call("replay", **params)["run"])

        return see_through(session, client, reader(session), begin, follow=follow, timeout=timeout)
