"""``flowork update``."""

from __future__ import annotations

import click
import msgspec

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session


@leaf(
    "flowork update",
    "flowork update /media/stick/flowork-0.2.0-aarch64.flowork",
    "flowork update http://laptop.local:8000/flowork-0.2.0-aarch64.flowork",
    name="update",
)
@click.argument("source", default="", metavar="[FILE|URL]")
def command(session: Session, source: str) -> None:
    """Bring in a signed release, or say what the last update came to.

    It is verified before anything of it is used, its form of the database is tried on a copy, and if all is not well
    for five minutes after it the version before comes back by itself. Nothing is ever fetched or brought in unasked.
    """
    from appliance.update.request import hand_over, view

    data = session.need_engine()
    if source:
        with progress(session, "fetching") as tell:
            hand_over(data, source, lambda done, of: tell(done, of, ""))
        session.audit("update.request", source)
    seen = view(data)
    if session.as_json:
        out.emit(msgspec.to_builtins(seen))
        return
    if source:
        out.say("handed over; `flowork update` says how it goes, and so does journalctl -fu flowork-update")
        return
    if seen.why_not:
        out.say(seen.why_not)
    state = seen.state
    if state.phase == "none":
        out.say("no update was made here yet")
    else:
        out.say(f"{state.phase}: version {state.version or '?'}, {out.moment(state.at)}")
        if state.reason:
            out.say(f"  {out.plain(state.reason)}")
    for path in seen.found:
        out.say(f"on a stick: {out.plain(path)}")
