"""How the backups that are made by themselves went, and when the next one is due. One small file beside them."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.store.settings import Settings

_STATE = Path("backups") / "state.json"
#: Seconds after which a backup that failed is tried again.
TRY_AGAIN = 3600.0


class State(Struct, kw_only=True):
    """``tried`` and ``done`` are Unix seconds; ``error`` is why the last try failed."""

    tried: float = 0.0
    done: float = 0.0
    name: str = ""
    error: str = ""


def read_state(data: Path) -> State:
    """How it went the last time."""
    try:
        return msgspec.json.decode((data / _STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return State()


def write_state(data: Path, state: State) -> None:
    """Keep how it went; a disk that refuses is told of by the backup itself."""
    path = data / _STATE
    fresh = path.with_name("state.json.new")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh.write_bytes(msgspec.json.encode(state))
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)


def due(settings: Settings, state: State, now: float) -> bool:
    """Whether a backup is to be made by itself now."""
    if not settings.backup_days:
        return False
    hour, minute = (int(part) for part in settings.backup_at.split(":"))
    today = time.localtime(now)
    if state.error:
        return now - state.tried >= TRY_AGAIN or now < state.tried
    if (today.tm_hour, today.tm_min) < (hour, minute):
        return False
    # From day to day, so that it does not wander through the hours.
    return _day(now) - _day(state.done) >= settings.backup_days or now < state.done


def _day(moment: float) -> int:
    return datetime.date.fromtimestamp(moment).toordinal()
