"""The user's side of an update: what root's updater tells, and handing it a release file."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from msgspec import Struct

from appliance.contracts import ConfigError, NodeError
from appliance.update.release import ALL
from appliance.update.updater import INCOMING, OPT, PLACE, UpdateState, read_state

_CHUNK = 1 << 20
_PATIENCE = 60.0
#: Where sticks and disks are mounted.
_STICKS = (Path("/media"), Path("/mnt"))


class UpdateView(Struct, frozen=True, kw_only=True):
    """Whether this engine can be updated from here (``why_not`` if it cannot), and what the updater is at."""

    possible: bool
    why_not: str
    state: UpdateState
    waiting: bool
    found: list[str]


def view(data: Path) -> UpdateView:
    """What there is to say. ``found`` are release files on sticks that are plugged in."""
    why_not = _why_not()
    waiting = (data / INCOMING).exists()
    state, found = read_state(PLACE), _on_sticks()
    return UpdateView(possible=not why_not, why_not=why_not, state=state, waiting=waiting, found=found)


def _why_not() -> str:
    if not (OPT / "current").is_symlink():
        return "this engine runs from a checkout: update it with `git pull`, then start it again"
    return ""


def _on_sticks() -> list[str]:
    found: list[str] = []
    for root in _STICKS:
        for depth in ("*", "*/*", "*/*/*"):
            try:
                found += [str(path) for path in root.glob(f"{depth}.flowork") if path.is_file()]
            except OSError:
                continue
    return sorted(found)[:20]


def hand_over(data: Path, source: str, tell: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Put a release file, from a path or an address, where root's updater finds it; it verifies it.

    Raises ``ConfigError`` where updates are not done this way or one waits already, ``NodeError`` for a file or an
    address that cannot be read.
    """
    if why := _why_not():
        raise ConfigError(why)
    target = data / INCOMING
    if target.exists():
        raise ConfigError("a release is being looked at already; wait for it to end")
    target.parent.mkdir(mode=0o700, exist_ok=True)
    unfinished = target.with_name("incoming.part")
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=_PATIENCE) as reply:  # noqa: S310  # checked above
                _save(reply, unfinished, int(reply.headers.get("Content-Length") or 0), tell)
        else:
            with Path(source).open("rb") as opened:
                _save(opened, unfinished, os.fstat(opened.fileno()).st_size, tell)
        unfinished.rename(target)
    except (OSError, urllib.error.URLError, ValueError) as exc:
        raise NodeError(f"{source} cannot be read: {exc}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _save(source: IO[bytes], target: Path, size: int, tell: Callable[[int, int], None]) -> None:
    free = shutil.disk_usage(target.parent).free
    if size > ALL or size * 4 > free:
        raise ValueError(f"it has {size // 1_000_000} MB, and {free // 1_000_000} MB are free, of which it needs four")
    done = 0
    with target.open("wb") as out:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > ALL:
                raise ValueError("it is larger than any release")
            out.write(chunk)
            tell(done, size)
        out.flush()
        os.fsync(out.fileno())
    if size and done != size:
        raise ValueError(f"it broke off after {done} of {size} bytes")
