"""``flowork approvals``: what waits for a person."""

from __future__ import annotations

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork approvals", "flowork approvals --json", name="approvals")
def command(session: Session) -> None:
    """List the questions that stand: approvals, and steps of which a crash left open whether they were done."""
    asks = session.call("waiting")
    if session.as_json:
        out.emit({"items": asks})
        return
    if not asks:
        out.say("nothing waits for a person")
    for ask in asks:
        verb, what = (
            ("decide", "was it done?") if ask["kind"] == "unverified" else ("answer", ask["ask"].get("title", ""))
        )
        until = f" (until {out.moment(ask['until'])})" if ask.get("until") else ""
        out.say(f"{ask['flow']}: {out.one_line(what, 200)}{until}", bold=True)
        if text := ask["ask"].get("text"):
            out.say(f"    {out.one_line(text, 500)}")
        out.say(f"    payload: {out.short(ask['payload'], 100)}")
        out.say(f"    flowork {verb} {ask['run']} {ask['node']} {'|'.join(ask['ask'].get('choices', []))}")
