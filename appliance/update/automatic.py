"""Updates by themselves, where somebody has turned that on: a set source is looked at once a day, at a set hour.

Off is the default, and then nothing is ever looked at. What was seen is kept for the panel; a release that was handed
over once is not tried a second time by itself, however it ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError
from appliance.update.sources import Available

#: What the newest look has seen, in the data folder.
SEEN = "update/looked.json"
DAY = 86_400.0


class Looked(Struct, frozen=True, kw_only=True):
    """The newest look at the source: when (Unix seconds; 0: never), what it has, why it could not be read.

    ``tried`` is the release that was brought in by itself, as ``version-made``.
    """

    at: float = 0.0
    found: Available | None = None
    error: str = ""
    tried: str = ""


def looked(data: Path) -> Looked:
    """What the newest look has seen."""
    try:
        return msgspec.json.decode((data / SEEN).read_bytes(), type=Looked)
    except (OSError, msgspec.DecodeError):
        return Looked()


def is_due(last: float, hour: str, now: float) -> bool:
    """Whether it is time to look: behind ``hour`` (HH:MM, local time) of today, and not looked since then.

    A machine that is off at that hour looks when it is on again, on the same day. ``last`` and ``now``: Unix seconds.
    """
    hours, _, minutes = hour.partition(":")
    today = datetime.fromtimestamp(now).replace(hour=int(hours), minute=int(minutes), second=0, microsecond=0)
    moment = today.timestamp()
    return now >= moment and not moment <= last <= now


class Automatic:
    """One engine's looks. ``look`` tells what a source has; ``bring`` hands a release over to root's updater."""

    def __init__(
        self,
        data: Path,
        look: Callable[[str], Available],
        bring: Callable[[str], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._data = data
        self._look = look
        self._bring = bring
        self._now = now

    def turn(self, mode: str, source: str, hour: str) -> str:
        """Look and bring in, if that is wanted and due; a line on what was done, empty for nothing.

        ``mode`` is the setting ``update_auto``. Raises nothing for a source that cannot be read: that is told.
        """
        before = looked(self._data)
        if mode == "off" or not source or not is_due(before.at, hour, self._now()):
            return ""
        return self.now(mode, source)

    def now(self, mode: str, source: str) -> str:
        """The same at once."""
        before = looked(self._data)
        try:
            found = self._look(source)
        except FlowError as exc:
            self._note(Looked(at=self._now(), error=exc.message, tried=before.tried))
            return f"{source}: {exc.message}"
        name = f"{found.version}-{found.made}"
        seen = Looked(at=self._now(), found=found, tried=before.tried)
        self._note(seen)
        if not found.newer or found.why_not:
            return f"{source} has nothing newer for this machine" + (f": {found.why_not}" if found.why_not else "")
        if mode != "install" or name == before.tried:
            return f"{source} has version {found.version}"
        # Noted first: a release that takes the power away is not fetched again at every start.
        self._note(msgspec.structs.replace(seen, tried=name))
        try:
            self._bring(found.source)
        except FlowError as exc:
            self._note(msgspec.structs.replace(seen, error=exc.message))
            return f"version {found.version} could not be handed over: {exc.message}"
        return f"version {found.version} is handed over"

    def _note(self, seen: Looked) -> None:
        path = self._data / SEEN
        path.parent.mkdir(mode=0o700, exist_ok=True)
        unfinished = path.with_name("looked.part")
        with unfinished.open("wb") as out:
            out.write(msgspec.json.encode(seen))
            out.flush()
            os.fsync(out.fileno())
        unfinished.rename(path)
