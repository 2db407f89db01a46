"""A release file that is sent from a browser: judged once its manifest is here, and handed to root's updater whole.

What breaks off is deleted: by whoever sent it, after half an hour in which nothing came, or when the gateway starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from appliance.contracts import ConfigError, FlowError
from appliance.gateway.uploads import BadPart, Upload
from appliance.update import request
from appliance.update.release import BadRelease
from appliance.update.request import SentRelease
from appliance.update.sources import Available, judged
from appliance.update.updater import INCOMING

#: Bytes behind which a release's manifest ends for certain.
_JUDGED = 5_000_000
#: Seconds after which a file of which nothing more comes is deleted.
IDLE = 1800.0


class ReleaseUpload:
    """``close`` ends the clock, and deletes what is not whole; twice is fine."""

    def __init__(self, data: Path, *, idle: float = IDLE, clock: Callable[[], float] = time.monotonic) -> None:
        self._data = data
        self._idle = idle
        self._clock = clock
        self._upload = Upload((data / INCOMING).with_name("sent.part"))
        self._found: Available | None = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._last = 0.0
        self._upload.forget()

    def view(self) -> SentRelease | None:
        """What was sent so far; None for nothing."""
        with self._lock:
            return self._view()

    def _view(self) -> SentRelease | None:
        if not self._upload.size:
            return None
        return SentRelease(received=self._upload.received, size=self._upload.size, found=self._found)

    def receive(self, offset: int, size: int, part: bytes) -> SentRelease:
        """Keep a part of a release of ``size`` bytes; the one at 0 begins anew.

        Raises ``ConfigError`` where no release can be taken now or there is no room, ``BadPart`` for a part that does
        not follow, ``BadRelease`` once it is seen that it is none for this machine; nothing is kept of that.
        """
        with self._lock:
            if offset == 0:
                self._begin(size)
            self._upload.add(offset, size, part)
            self._last = self._clock()
            received = self._upload.received
            if self._found is None and received >= min(size, _JUDGED):
                self._judge()
            return SentRelease(received=received, size=size, found=self._found)

    def _begin(self, size: int) -> None:
        request.ready(self._data)
        self._forget()
        try:
            request.most_bytes(size, self._data)
        except ValueError as exc:
            raise ConfigError(f"this release cannot be taken: {exc}") from None
        self._upload.begin(size)
        self._watch(self._idle)

    def _judge(self) -> None:
        try:
            with self._upload.path.open("rb") as file:
                found = judged(self._upload.path.name, file)
            if found.why_not:
                raise BadRelease(found.why_not)
        except FlowError:
            self._forget()
            raise
        self._found = found

    def bring(self) -> None:
        """Hand over what was sent. Raises ``BadPart`` unless all of it is here, ``ConfigError`` as ``receive``."""
        with self._lock:
            if not self._upload.whole or self._found is None:
                raise BadPart("no whole release was sent yet")
            request.take(self._data, self._upload.path)
            self._forget()

    def forget(self) -> None:
        """Delete what was sent."""
        with self._lock:
            self._forget()

    close = forget

    def _forget(self) -> None:
        self._upload.forget()
        self._found = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._rest)
        self._timer.daemon = True
        self._timer.start()

    def _rest(self) -> None:
        """Nothing may have come for a while."""
        with self._lock:
            if self._timer is None:
                return
            left = self._last + self._idle - self._clock()
            if left > 0:
                self._watch(left)
            else:
                self._forget()
