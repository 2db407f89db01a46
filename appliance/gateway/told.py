"""Answers that take their time: told piece by piece as they are made, or whole; whoever hangs up has ended the work.

Each holds one of the server's threads, and the panel needs some; so there are only so many places.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appliance.contracts import Busy
from appliance.kernel.client import Stream

logger = logging.getLogger(__name__)

#: Questions at once.
MOST = 16


class Places:
    """The places for questions that are being answered."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MOST)

    @contextmanager
    def one(self) -> Iterator[Callable[[], None]]:
        """Take a place, given back at the end; who calls what this gives keeps it, and calls :meth:`release` later.

        Raises ``Busy`` if all are taken.
        """
        if not self._free.acquire(blocking=False):
            raise Busy(f"{MOST} questions are being answered, which is as many as this engine takes", retry_after=5.0)
        kept = []
        try:
            yield lambda: kept.append(True)
        finally:
            if not kept:
                self.release()

    def release(self) -> None:
        """Give a place back."""
        self._free.release()


class Told:
    """The body of an answer in pieces. ``broken`` is told where it breaks off: the status is sent by then."""

    def __init__(
        self, stream: Stream, places: Places, parts: Iterator[bytes], broken: Callable[[Exception], bytes]
    ) -> None:
        self._stream = stream
        self._places = places
        self._parts = parts
        self._broken = broken
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._parts
        except Exception as exc:
            logger.warning("an answer was broken off: %s", exc)
            yield self._broken(exc)
        finally:
            self.close()

    def close(self) -> None:
        """Called by the server at the end, however it came. Twice is fine."""
        if not self._closed:
            self._closed = True
            self._stream.close()
            self._places.release()
