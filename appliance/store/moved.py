"""A note in the data folder that the engine's data is elsewhere now, or on its way here: nobody starts with the rest.

``moved.json`` is left where an engine was moved from, ``.moving.json`` lies where one is being moved to.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.store.errors import StoreError
from appliance.store.sqlite_file import sync_folder

_MOVED, _MOVING = "moved.json", ".moving.json"


class Move(Struct, frozen=True):
    """The other side, as words without a password, and when (Unix seconds)."""

    other: str
    at: float


def refuse_moved(data: Path) -> None:
    """Raises ``StoreError`` where the engine's data in a folder is not, or not yet, what counts."""
    if (to := moved_to(data)) is not None:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(to.at))
        raise StoreError(
            f"this engine's data has moved to {to.other} on {when}: set FLOWORK_DATABASE_URL to it, or take it back "
            f"with `flowork migrate --to sqlite`. To go on with what was here then, delete {data / _MOVED}",
            retryable=False,
        )
    if (coming := moving_from(data)) is not None:
        raise StoreError(
            f"moving the engine's data from {coming.other} to {data} was cut off: run `flowork migrate --to sqlite` "
            "again",
            retryable=False,
        )


def moved_to(data: Path) -> Move | None:
    """Where the data of a folder went, if it was moved away."""
    return _read(data / _MOVED)


def moving_from(data: Path) -> Move | None:
    """Where the data comes from that is being moved into a folder."""
    return _read(data / _MOVING)


def note_moved(data: Path, other: str, now: float) -> None:
    """The data of this folder counts no more."""
    _write(data / _MOVED, Move(other, now))


def note_moving(data: Path, other: str, now: float) -> None:
    """The data of this folder does not count yet."""
    _write(data / _MOVING, Move(other, now))


def forget(data: Path) -> None:
    """What is in this folder counts."""
    for name in (_MOVED, _MOVING):
        (data / name).unlink(missing_ok=True)
    sync_folder(data)


def _read(path: Path) -> Move | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Move)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        return Move("another place", path.stat().st_mtime)


def _write(path: Path, move: Move) -> None:
    path.write_bytes(msgspec.json.encode(move))
    sync_folder(path.parent)
