"""``flowork audit``: who did what, and whether the log is whole."""

from __future__ import annotations

import json

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session
from appliance.wording import counted

command = noun("audit", "The audit log: who did what, in a chain that shows any change.", default="list")


@leaf("flowork audit list", "flowork audit list --action flow --actor local:pi --json", of=command, name="list")
@click.option("--actor", default="", help="Only by this one, such as local:pi or user:0x….")
@click.option("--action", default="", help="Only this action, or all under it: `flow` finds flow.deploy.")
@click.option("--before", type=int, help="Only entries below this number.")
@click.option("--limit", type=click.IntRange(1, 500), default=30, show_default=True, help="At most so many.")
def list_(session: Session, actor: str, action: str, before: int | None, limit: int) -> None:
    """List the newest entries."""
    rows = session.store.audit.page(before, limit, actor=actor, action=action)
    if session.as_json:
        names = ("seq", "actor", "action", "target", "workspace", "hash")
        items = [
            {**{name: getattr(row, name) for name in names}, "time": row.time / 1e6, "detail": json.loads(row.detail)}
            for row in rows
        ]
        out.emit({"items": items, "next": rows[-1].seq if len(rows) == limit else None})
        return
    head = ("seq", "time", "who", "what", "of", "detail")
    out.table(
        head,
        [
            (
                r.seq,
                out.moment(r.time / 1e6),
                r.actor,
                r.action,
                r.target,
                "" if r.detail == "{}" else out.one_line(r.detail),
            )
            for r in rows
        ],
    )


@leaf("flowork audit verify", "flowork audit verify --json", of=command)
def verify(session: Session) -> int:
    """Walk the whole chain; name the first entry that is not as it was written. Exit code 1 if there is one.

    Note the head somewhere else now and then: it proves that nobody has written the whole log anew.
    """
    found = session.audit_log.verify()
    if session.as_json:
        out.emit(
            {"ok": found.ok, "count": found.count, "head": found.head, "broken": found.broken, "reason": found.reason}
        )
    elif found.ok:
        out.say(f"{counted(found.count, 'entry', 'entries')}, all as written; head {found.head}", color="green")
    else:
        out.say(f"Error: {found.reason}", err=True, color="red")
        out.say(f"{counted(found.count, 'entry before it is', 'entries before it are')} as written", err=True)
    return 0 if found.ok else 1


@leaf("flowork audit accept --reason 'restored the backup of Monday' --yes", of=command)
@click.option("--reason", required=True, help="Why the log may go on from where it ends now.")
@given.yes_option
def accept(session: Session, reason: str, yes: bool) -> None:
    """Go on with a log whose end is missing, after an older database was restored. That is an entry itself."""
    session.need_engine()
    given.confirmed(yes, "Accept the log as it is now?")
    entry = session.audit_log.accept(session.identity.label, reason)
    session.done({"seq": entry.seq}, f"accepted; entry {entry.seq} says so")
