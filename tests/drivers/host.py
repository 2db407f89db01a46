"""What a driver receives in tests: a clock that the test turns, a folder, and a place for what it says."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivers.base import Observation

#: Seconds that a test waits for what has to come.
PATIENCE = 20.0


class FakeHost:
    """The real clock, unless ``time`` is set: then that one, for ``now`` and ``monotonic``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time: float | None = None
        self.blobs: dict[str, bytes] = {}

    def now(self) -> float:
        return time.time() if self.time is None else self.time

    def monotonic(self) -> float:
        return time.monotonic() if self.time is None else self.time

    def state(self, name: str) -> Path:
        return self.folder / name

    def blob(self, data: bytes, mime: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"$blob": digest, "size": len(data), "type": mime}


class Heard:
    """An ``emit`` that keeps what it is told and lets a test wait for it."""

    def __init__(self) -> None:
        self.all: list[Observation] = []
        self._came = threading.Condition()

    def __call__(self, observation: Observation) -> None:
        with self._came:
            self.all.append(observation)
            self._came.notify_all()

    def until(self, wanted: Callable[[Observation], bool], count: int = 1) -> list[Observation]:
        """The observations that fit, once there are ``count`` of them."""
        with self._came:
            enough = self._came.wait_for(lambda: len(self._fitting(wanted)) >= count, PATIENCE)
            found = self._fitting(wanted)
        assert enough, f"only {len(found)} of {count} came; heard {self.all[-20:]}"
        return found

    def kind(self, kind: str, count: int = 1) -> list[Observation]:
        return self.until(lambda each: each.kind == kind, count)

    def one(self, kind: str) -> Observation:
        return self.kind(kind)[0]

    def _fitting(self, wanted: Callable[[Observation], bool]) -> list[Observation]:
        return [each for each in self.all if wanted(each)]
