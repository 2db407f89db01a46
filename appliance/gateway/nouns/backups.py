"""Backups: those in the place that the settings name, making one now, checking one, and the key that opens them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from appliance.backups import NAME, Kept, local_copy, place_of
from appliance.gateway.common import Body
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.backup import check_backup
from appliance.store.backup_log import State, read_state
from appliance.store.seal import Keys, new_key

noun = Noun("backups", "The engine in one file. Where, how often and how many are kept: the settings `backup_…`.")

BackupName = Annotated[str, Meta(pattern=NAME, description="A backup's name")]


class Backups(Struct, frozen=True, kw_only=True):
    """``items``, newest first; ``last`` is how the last one that was made by the settings went.

    ``to`` is empty for the folder ``backups`` of this engine, on the same disk. ``keys`` are the public keys that new
    ones are encrypted to.
    """

    to: str
    running: bool
    encrypted: bool
    keys: Sequence[str]
    days: float
    at: str
    keep: int
    last: State
    items: Sequence[Kept]


class Opening(Body, frozen=True):
    """What opens a backup; a plain one needs neither."""

    key: Annotated[str, Meta(max_length=10_000, description="The private key, where it is encrypted to one")] = ""
    passphrase: Annotated[str, Meta(max_length=1000)] = ""


class CheckedBackup(Struct, frozen=True):
    """A backup that is whole: when it was made (Unix seconds), how many files, and what could not be taken along."""

    created: float
    files: int
    left_out: Sequence[str]


class MadeKey(Struct, frozen=True):
    """A key for backups. ``private`` is shown this once, and kept nowhere on this machine."""

    public: str
    private: str


@noun.get("/backups", permission="backups:read")
def list_backups(call: Call[Nothing, Nothing]) -> Backups:
    """The backups that are kept. A place in the network is asked, which may take a while."""
    gateway = call.gateway
    settings, status = gateway.settings, gateway.kernel_status()
    return Backups(
        to=settings.backup_to,
        running=status is not None and bool(status["backups"]["running"]),
        encrypted=bool(settings.backup_keys),
        keys=settings.backup_keys,
        days=settings.backup_days,
        at=settings.backup_at,
        keep=settings.backup_keep,
        last=read_state(gateway.data),
        items=place_of(settings.backup_to, gateway.data).list(),
    )


@noun.post("/backups", permission="backups:write", audit="backup.begin")
def begin(call: Call[Nothing, Nothing]) -> None:
    """Begin one now; how it goes is in the list."""
    call.gateway.call("backup")


@noun.post("/backups/{name}/check", permission="backups:write", errors=(404, 422, 502, 503), audit="backup.check")
def check(call: Call[Nothing, Opening], name: BackupName) -> CheckedBackup:
    """Open a backup and check everything in it as a restore would. Takes as long as reading it."""
    gateway, given = call.gateway, call.body
    call.note(name)
    room = gateway.data / "backups"
    keys = Keys((given.key,) if given.key.strip() else (), given.passphrase)
    with local_copy(place_of(gateway.settings.backup_to, gateway.data), name, room) as path:
        manifest = check_backup(path, room, keys)
    return CheckedBackup(manifest.created, len(manifest.files), manifest.left_out)


@noun.post("/backups/keys", permission="backups:write", status=201, audit="backup.key")
def make_key(call: Call[Nothing, Nothing]) -> MadeKey:
    """Make a key and encrypt backups to it from now on. Without its private part none of them can be opened."""
    settings = call.gateway.store.settings
    private, public = new_key()
    call.note(public)
    settings.set({"backup_keys": (*settings.load().backup_keys, public)})
    call.after.append(call.gateway.reload)
    return MadeKey(public, private)
