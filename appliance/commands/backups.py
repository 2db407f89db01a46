"""``flowork backups``."""

from __future__ import annotations

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork backups", "flowork backups --json", name="backups")
def command(session: Session) -> None:
    """The backups in the place that the settings name, newest first, and how the last one went."""
    from appliance.backups import place_of
    from appliance.store.backup_log import read_state

    data = session.need_engine()
    settings = session.store.settings.load()
    place, state = settings.backup_to or str(data / "backups"), read_state(data)
    found = place_of(settings.backup_to, data).list()
    if session.as_json:
        out.emit({"place": place, "backups": found, "last": state})
        return
    for kept in found:
        out.say(f"{kept.name}  {out.size(kept.size)}")
    if not found:
        out.say(f"none in {place}")
    if state.error:
        out.say(f"the last try failed ({out.moment(state.tried)}): {out.plain(state.error)}", err=True, color="red")
