"""A backup in the place of the engine that runs: unpacked and proved beside it, and swapped in when it starts anew.

The engine that was there is kept in ``replaced/`` until the next restore, so that a wrong backup is no loss. Unpacking
takes as long as it takes and harms nobody; the swap is a few renames, and one that a power cut interrupts is finished
at the next start. ``models/``, ``backups/`` and what belongs to this machine stay where they are.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from appliance.paths import EngineLock, FolderInUse, holder
from appliance.safemode import END, STATE, SafeMode
from appliance.security.keys import init_keys
from appliance.store.archive import TOP, Manifest, Progress
from appliance.store.backup import restore_backup
from appliance.store.errors import StoreError, explained
from appliance.store.good_copy import GOOD_COPY
from appliance.store.opening import DATABASE
from appliance.store.places import database_url
from appliance.store.seal import Keys
from appliance.store.sqlite_file import sync_folder

#: Where an engine waits to be swapped in, and where the one before it is kept.
FOLDER, REPLACED = "restored", "replaced"
#: Seconds until kernel and gateway have let go of the folder: a kernel gets 30 to stop.
_PATIENCE = 90.0
_BETWEEN = 0.05
_ENGINE, _STEP, _ANEW = "engine", "step", "anew"
_READY, _LEAVING, _ENTERING = "ready", "leaving", "entering"
_LEAVE = (*sorted(TOP), "queue.db", STATE, END, str(GOOD_COPY))
_BESIDE = ("", "-wal", "-shm")


def stage(
    data: Path, archive: Path, keys: Keys, *, as_another: bool = False, progress: Progress | None = None
) -> Manifest:
    """Unpack a backup beside the engine in ``data`` and check all of it; the next start takes it.

    ``as_another`` gives it an identity of its own and safe mode, as ``flowork restore --as-another`` does. Raises
    ``StoreError``, ``KeysError``; then nothing waits.
    """
    if database_url():
        raise StoreError(
            "this engine's flows and runs are in a database server, which is not overwritten: restore into an empty "
            "folder with `flowork restore`, and bring that into an empty database with `flowork migrate`",
            retryable=False,
        )
    drop(data)
    room = data / FOLDER / _ENGINE
    with explained(room):
        room.mkdir(mode=0o700, parents=True)
        try:
            manifest = restore_backup(archive, room, progress, keys=keys, as_another=as_another)
            if as_another:
                init_keys(room)
                SafeMode(room).enter("restored as another engine: its flows would do everything a second time")
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise
        _step(data, _READY)
    return manifest


def drop(data: Path) -> None:
    """Forget an engine that waits; one that is being swapped in cannot be forgotten."""
    if _step_of(data) in {"", _READY}:
        (data / FOLDER / _STEP).unlink(missing_ok=True)
        shutil.rmtree(data / FOLDER / _ENGINE, ignore_errors=True)


def tidy(data: Path) -> None:
    """What a restore that was cut off has left; for a gateway that begins."""
    if not waits(data):
        shutil.rmtree(data / FOLDER, ignore_errors=True)


def waits(data: Path) -> bool:
    """Whether an engine is to be swapped in."""
    return _step_of(data) != ""


def swap(data: Path) -> None:
    """Put the engine that waits into its place; the caller holds the folder's locks. Raises ``StoreError``."""
    with explained(data):
        if _step_of(data) == _READY:
            shutil.rmtree(data / REPLACED, ignore_errors=True)
            (data / REPLACED).mkdir(mode=0o700)
            _step(data, _LEAVING)
        if _step_of(data) == _LEAVING:
            for name in _LEAVE:
                for ending in _BESIDE:
                    _move(data / f"{name}{ending}", data / REPLACED)
            _step(data, _ENTERING)
        room = data / FOLDER / _ENGINE
        # The database last: without it no start takes the folder for an engine.
        for path in sorted(room.iterdir() if room.is_dir() else (), key=lambda path: path.name == DATABASE):
            _move(path, data)
        sync_folder(data)
        shutil.rmtree(data / FOLDER)


def swap_alone(data: Path, patience: float = _PATIENCE) -> None:
    """Swap in what waits, for a process that holds none of the folder's locks yet. Raises ``FolderInUse``."""
    deadline = time.monotonic() + patience
    while waits(data):
        try:
            with ExitStack() as held:
                for role in ("kernel", "gateway"):
                    held.enter_context(EngineLock(data, role))
                if waits(data):
                    swap(data)
        except FolderInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BETWEEN)


def begin_anew(data: Path) -> None:
    """Have the kernel and the gateway of a folder end and start again; for the gateway's process.

    ``flowork up`` holds both locks, and looks for the note that it is to start anew; alone, each of the two is started
    again by systemd.
    """
    (data / FOLDER / _ANEW).touch()
    for pid in {holder(data, role) for role in ("kernel", "gateway")} - {0}:
        os.kill(pid, signal.SIGTERM)


def is_anew(data: Path) -> bool:
    """Whether an engine that was ended is to start again."""
    return (data / FOLDER / _ANEW).exists()


def _step_of(data: Path) -> str:
    try:
        return (data / FOLDER / _STEP).read_text().strip()
    except OSError:
        return ""


def _step(data: Path, step: str) -> None:
    path = data / FOLDER / _STEP
    fresh = path.with_name(f"{_STEP}.new")
    fresh.write_text(step)
    os.sync()  # all that was moved before this step
    fresh.replace(path)
    sync_folder(path.parent)


def _move(path: Path, folder: Path) -> None:
    if path.exists():
        path.rename(folder / path.name)
