"""The release that this engine gives to others: the file of the one that it runs, which root's updater has kept.

A release is no secret, and who gets it verifies it as one from anywhere else. It is read in pieces, so that neither
side ever holds a whole one in memory.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from msgspec import Struct

from appliance.contracts import FlowError, NodeError
from appliance.update.release import Release, open_file
from appliance.update.sources import made_here
from appliance.update.updater import LAST, PLACE, read_trusted

#: Bytes of one piece, at most.
PIECE = 262_144


class Offer(Struct, frozen=True, kw_only=True):
    """A release that an engine gives. ``id`` is another one for another file, ``size`` is in bytes."""

    id: str
    size: int
    version: str
    made: int


def offer() -> Offer | None:
    """What this engine gives; None for nothing: it was not updated by a release file yet, or runs another one again."""
    try:
        with open_file(PLACE / LAST) as opened:
            mark = _mark(PLACE / LAST)
            manifest = Release(opened, read_trusted(PLACE)).open()
    except (FlowError, OSError):
        return None
    if manifest.version != version("flowork") or made_here() not in (0, manifest.made):
        return None
    return Offer(id=mark, size=int(mark.rpartition("-")[2]), version=manifest.version, made=manifest.made)


def piece(mark: str, offset: int) -> bytes:
    """The bytes from ``offset`` on; empty behind the end. Raises ``NodeError`` once it is not the file of ``mark``."""
    try:
        with open_file(PLACE / LAST) as opened:
            if _mark(PLACE / LAST) != mark:
                raise NodeError("it has another release now; begin anew")
            opened.seek(offset)
            return opened.read(PIECE)
    except OSError:
        raise NodeError("it has no release to give any more") from None


def _mark(path: Path) -> str:
    about = path.stat()
    return f"{about.st_ino:x}-{about.st_mtime_ns:x}-{about.st_size}"
