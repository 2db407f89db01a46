"""``flowork update``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.update.sources import Available


@leaf(
    "flowork update",
    "flowork update /media/stick/flowork-0.2.0-aarch64.flowork",
    "flowork update --look /media/stick",
    "flowork update --back",
    "flowork update http://laptop.local:8000/flowork-0.2.0-aarch64.flowork",
    "flowork update peer:laptop",
    name="update",
)
@click.argument("source", default="", metavar="[FILE|FOLDER|URL|peer:NAME]")
@click.option("--look", is_flag=True, help="Only say what is there.")
@click.option("--back", is_flag=True, help="Return to the version before the last update.")
@click.option("--by-settings", is_flag=True, help="Do what the settings update_… want done now; a timer calls this.")
def command(session: Session, source: str, look: bool, back: bool, by_settings: bool) -> None:
    """Bring in a signed release, or say what the last update came to.

    It is verified before anything of it is used, its form of the database is tried on a copy, and if all is not well
    for five minutes after it the version before comes back by itself. Nothing is ever fetched or brought in unasked.
    `peer:NAME` is a paired engine, which gives the release that it runs itself.
    """
    from appliance.update.peers import opener
    from appliance.update.request import go_back, hand_over, view

    data = session.need_engine()
    if by_settings:
        _by_settings(session)
        return
    if look:
        _look(session, source)
        return
    if back:
        go_back(data)
        session.audit("update.back")
        session.done({}, "asked for; `flowork update` says how it goes")
        return
    if source:
        with progress(session, "fetching") as tell:
            hand_over(data, source, lambda done, of: tell(done, of, ""), opener(session.call))
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
    for one in seen.sticks:
        out.say(f"on a stick: {_words(one)}")
    if seen.looked.at:
        found = seen.looked.found
        there = seen.looked.error or (_words(found) if found is not None else "nothing")
        out.say(f"looked at the source {out.moment(seen.looked.at)}: {out.plain(there)}")


def _look(session: Session, source: str) -> None:
    from appliance.update.peers import opener
    from appliance.update.sources import look

    wanted = source or session.store.settings.load().update_from
    if not wanted:
        raise click.UsageError("say where to look, or set the setting update_from")
    found = look(wanted, opener(session.call))
    session.done(msgspec.to_builtins(found), _words(found))


def _by_settings(session: Session) -> None:
    from appliance.update.automatic import Automatic
    from appliance.update.peers import opener
    from appliance.update.request import hand_over
    from appliance.update.sources import look

    of_peer = opener(session.call)
    data, settings = session.need_engine(), session.store.settings.load()

    def bring(source: str) -> None:
        hand_over(data, source, of_peer=of_peer)
        session.audit("update.request", source, {"by": "settings"})

    done = Automatic(data, lambda source: look(source, of_peer), bring).turn(
        settings.update_auto, settings.update_from, settings.update_at
    )
    session.done({"done": done}, done or "nothing to do")


def _words(one: Available) -> str:
    news = f"cannot be used here: {one.why_not}" if one.why_not else "newer" if one.newer else "nothing new"
    return out.plain(f"{one.source}: version {one.version or '?'}, {news}")
