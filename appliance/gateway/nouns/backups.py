"""Backups: those in the place that the settings name, and making one now."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from appliance.backups import Kept, place_of
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.backup_log import State, read_state

noun = Noun("backups", "The engine in one file. Where, how often and how many are kept: the settings `backup_…`.")


class Backups(Struct, frozen=True, kw_only=True):
    """``items``, newest first; ``last`` is how the last one that was made by the settings went."""

    to: str
    running: bool
    encrypted: bool
    last: State
    items: Sequence[Kept]


@noun.get("/backups", permission="backups:read")
def list_backups(call: Call[Nothing, Nothing]) -> Backups:
    """The backups that are kept. A place in the network is asked, which may take a while."""
    gateway = call.gateway
    settings, status = gateway.settings, gateway.kernel_status()
    return Backups(
        to=settings.backup_to,
        running=status is not None and bool(status["backups"]["running"]),
        encrypted=bool(settings.backup_keys),
        last=read_state(gateway.data),
        items=place_of(settings.backup_to, gateway.data).list(),
    )


@noun.post("/backups", permission="backups:write", audit="backup.begin")
def begin(call: Call[Nothing, Nothing]) -> None:
    """Begin one now; how it goes is in the list."""
    call.gateway.call("backup")
