"""Judges a trial boot: good once the panel has answered without a break for some minutes, else a new start.

Asked whether all is well the gateway answers with `ok`, `warning` or `critical`; what a user's own flows or a full disk
make critical is not the new slot's fault, so any answer of the gateway counts, as long as the kernel is there too.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from appliance.box import slots
from appliance.box.place import Box, BoxError
from appliance.box.voice import say

_HEALTH = "http://127.0.0.1:{port}/api/v1/health"
#: Seconds between two looks, and that an answer may take.
_PACE, _PATIENCE = 5.0, 30.0


def well(box: Box) -> bool:
    """Whether the parts that this box is to run do run."""
    if (box.root / "run/flowork/edge").exists():
        # It may wait for its appliance for days; that its process stays is all that can be asked.
        return _active("flowork-edge.service")
    return all(_active(f"flowork-{part}.service") for part in ("kernel", "gateway")) and answers(box.port())


def answers(port: int) -> bool:
    """Whether the gateway answers in its own words."""
    try:
        with urllib.request.urlopen(_HEALTH.format(port=port), timeout=_PATIENCE) as reply:  # noqa: S310  # ours
            return "status" in json.load(reply)
    except urllib.error.HTTPError as exc:
        # A critical state is told with a 503, in the same words.
        try:
            return "status" in json.load(exc)
        except ValueError:
            return False
    except (OSError, ValueError):
        return False


def _active(unit: str) -> bool:
    return subprocess.run(["systemctl", "--quiet", "is-active", unit], check=False).returncode == 0


class Watch:
    """The judgement; ``steady`` and ``limit`` are seconds, the clock and the questions are given for tests."""

    def __init__(
        self,
        box: Box,
        *,
        steady: float,
        limit: float,
        ask: Callable[[], bool] | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        reboot: Callable[[], None] | None = None,
        tell: Callable[[], None] | None = None,
    ) -> None:
        self._box = box
        self._steady = steady
        self._limit = limit
        self._ask = ask or (lambda: well(box))
        self._now = now
        self._sleep = sleep
        self._reboot = reboot or _reboot
        self._tell = tell or _tell_updater

    def run(self) -> int:
        """Watch until the slot is good, or start the machine again; the exit code."""
        if not self._box.started_as_trial():
            return 0
        began = self._now()
        since: float | None = None
        while True:
            moment = self._now()
            decided, mounted = self._decided()
            if decided:
                return 0
            if mounted and self._ask():
                since = moment if since is None else since
                if moment - since >= self._steady:
                    return self._good()
            else:
                since = None
            if moment - began >= self._limit and since is None:
                say(f"slot {self._box.running()} has not become well in {self._limit:g} s: starting again")
                self._reboot()
                return 1
            self._sleep(_PACE)

    def _decided(self) -> tuple[bool, bool]:
        """Whether somebody has called the slot good, and whether that can be known: early in a boot it cannot yet."""
        try:
            return not self._box.trial(), True
        except BoxError:
            return False, False

    def _good(self) -> int:
        self._box.tell(slots.accept(self._box.choice(), self._box.running()))
        say(f"slot {self._box.running()} was well for {self._steady:g} s: it stays")
        self._tell()
        return 0


def _reboot() -> None:
    subprocess.run(["systemctl", "reboot"], check=True)


def _tell_updater() -> None:
    """The updater notes how its release has done."""
    subprocess.run(["systemctl", "start", "--no-block", "flowork-update.service"], check=False)
