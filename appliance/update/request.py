"""The user's side of an update: what root's updater tells, handing it a release file, asking it to go back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from msgspec import Struct, structs

from appliance.contracts import ConfigError, FlowError, NodeError
from appliance.update.automatic import Looked, looked
from appliance.update.release import ALL
from appliance.update.sources import Available, Opener, is_newer, look, no_peers, opened
from appliance.update.updater import (
    GO_BACK,
    INCOMING,
    LIMIT,
    OPT,
    PLACE,
    STEADY,
    UpdateState,
    read_state,
    why_no_way_back,
)

_CHUNK = 1 << 20
#: Where sticks and disks are mounted.
_STICKS = (Path("/media"), Path("/mnt"))
#: A release on its way here, and how large it will be.
_PART, _SIZE = "incoming.part", "incoming.size"
#: Seconds after which a release that does not grow is not being fetched any more.
_STUCK = 120.0


class Fetching(Struct, frozen=True):
    """How far a release that is being fetched is, in bytes; ``size`` is 0 where it is not known."""

    done: int
    size: int


class SentRelease(Struct, frozen=True):
    """A release that somebody sends from a browser: bytes that are here of those it has, and what it is once known."""

    received: int
    size: int
    found: Available | None = None


class UpdateView(Struct, frozen=True, kw_only=True):
    """Whether this engine can be updated from here (``why_not`` if it cannot), and what the updater is at.

    ``found`` are release files on sticks, ``sticks`` what is in them; ``looked`` is the newest look at the source of
    the setting ``update_from``, which is ``source``; ``sent`` is what is being sent from a browser;
    ``why_no_way_back`` is empty where one can return to the version before. While an update is watched all has been
    well for ``well_for`` seconds, and has to be for ``steady``; if it is not well in ``left`` seconds, the one before
    comes back.
    """

    possible: bool
    why_not: str
    state: UpdateState
    waiting: bool
    found: list[str]
    sticks: list[Available] = []
    fetching: Fetching | None = None
    sent: SentRelease | None = None
    source: str = ""
    steady: float = STEADY
    well_for: float = 0.0
    left: float = LIMIT
    looked: Looked = Looked()
    why_no_way_back: str = ""


def view(data: Path, *, source: str = "", sent: SentRelease | None = None, now: float | None = None) -> UpdateView:
    """What there is to say. Releases on sticks that are plugged in are looked at."""
    why_not, now = _why_not(), time.time() if now is None else now
    state, found = read_state(PLACE), _on_sticks()
    return UpdateView(
        possible=not why_not,
        why_not=why_not,
        state=state,
        waiting=(data / INCOMING).exists(),
        found=found,
        sticks=[_seen(path) for path in found],
        fetching=_fetching((data / INCOMING).parent),
        sent=sent,
        source=source,
        well_for=max(0.0, min(STEADY, now - state.well_since)) if state.well_since else 0.0,
        left=max(0.0, min(LIMIT, state.at + LIMIT - now)),
        looked=_still(looked(data)),
        why_no_way_back=why_no_way_back(state),
    )


def _seen(path: str) -> Available:
    try:
        return look(path)
    except FlowError as exc:
        return Available(source=path, why_not=exc.message)


def _still(seen: Looked) -> Looked:
    """What was newer then may be what runs now."""
    if (found := seen.found) is None:
        return seen
    newer = is_newer(found.version, found.made)
    return structs.replace(seen, found=structs.replace(found, newer=newer))


def told(data: Path) -> tuple[str, bool, str]:
    """What the newest look has found that is to be known: a version that is newer than what runs ("": none), whether it
    was brought in by itself already, and why the source could not be read.
    """
    seen = _still(looked(data))
    if (found := seen.found) is None or not found.newer or found.why_not:
        return "", False, seen.error
    return found.version, seen.tried == f"{found.version}-{found.made}", ""


def _fetching(folder: Path) -> Fetching | None:
    try:
        return Fetching((folder / _PART).stat().st_size, int((folder / _SIZE).read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None


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


def hand_over(
    data: Path,
    source: str,
    tell: Callable[[int, int], None] = lambda done, of: None,
    of_peer: Opener = no_peers,
) -> None:
    """Put a release, from a path, an address or a peer, where root's updater finds it; it verifies it.

    Raises ``ConfigError`` where updates are not done this way or one waits already, another ``FlowError`` for a source
    that cannot be read.
    """
    target = ready(data)
    if Path(source).is_dir():
        source = look(source).source
    unfinished, size_note = target.with_name(_PART), target.with_name(_SIZE)
    try:
        with opened(source, of_peer) as (stream, size):
            size_note.write_text(str(size), encoding="ascii")
            _save(stream, unfinished, size, tell)
        unfinished.rename(target)
    except (OSError, ValueError) as exc:
        raise NodeError(f"{source} cannot be read: {exc}") from None
    finally:
        unfinished.unlink(missing_ok=True)
        size_note.unlink(missing_ok=True)


def take(data: Path, file: Path) -> None:
    """The same with a file that lies in the data folder already; it is there no more. Raises ``ConfigError``."""
    target = ready(data)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    file.rename(target)


def go_back(data: Path) -> None:
    """Ask root's updater for the version before the last update. Raises ``ConfigError``."""
    if why := why_no_way_back(read_state(PLACE)):
        raise ConfigError(why)
    (ready(data).parent / Path(GO_BACK).name).touch(mode=0o600)


def ready(data: Path) -> Path:
    """Where a release goes. Raises ``ConfigError`` where none can be taken now."""
    if why := _why_not():
        raise ConfigError(why)
    target = data / INCOMING
    if target.exists():
        raise ConfigError("a release is being looked at already; wait for it to end")
    target.parent.mkdir(mode=0o700, exist_ok=True)
    if _is_fetching(target.with_name(_PART)):
        raise ConfigError("a release is on its way here already; wait for it to end")
    return target


def _is_fetching(unfinished: Path) -> bool:
    """Whether somebody fetches one at this moment; what a cut has left is not that."""
    try:
        return time.time() - unfinished.stat().st_mtime < _STUCK
    except OSError:
        return False


def most_bytes(size: int, folder: Path) -> int:
    """How large a release may be that is put into ``folder``. Raises ``ValueError`` if ``size`` is more than that."""
    free = shutil.disk_usage(folder).free
    most = min(ALL, free // 5)
    if size > most:
        there = f"{size // 1_000_000} MB, and {free // 1_000_000} MB are free"
        raise ValueError(f"it has {there}; it needs five times its size")
    return most


def _save(source: IO[bytes], target: Path, size: int, tell: Callable[[int, int], None]) -> None:
    most = most_bytes(size, target.parent)
    done = 0
    with target.open("wb") as out:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > (size or most):
                raise ValueError(f"more comes than the {(size or most) // 1_000_000} MB that it may have")
            out.write(chunk)
            tell(done, size)
        out.flush()
        os.fsync(out.fileno())
    if size and done != size:
        raise ValueError(f"it broke off after {done} of {size} bytes")
