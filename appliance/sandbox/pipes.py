"""The ends of a child's pipes on an event loop: bounded reading, and writing that never blocks.

Raw descriptors with ``add_reader`` instead of asyncio's streams: a warm worker's pipes outlive a call, and
what is still in a pipe when a call is over must be had without waiting for an end of file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_CHUNK = 65536
#: Seconds between two reads of a tail that has passed its bound, so that a flood costs the engine little.
_CALM = 0.02
#: Reads that empty the largest pipe (1 MiB, pipe(7)); a child that is still alive could write for ever.
_MOST_READS = 16


class Reader:
    """Collects what comes out of a pipe, at most ``limit`` bytes.

    More than that calls ``overflow`` once and drops the rest. A ``tail`` keeps the last ``limit`` bytes
    instead, as is right for a log, and slows the writer down.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tail: bool = False) -> None:
        ours, self.theirs = os.pipe()
        self.limit = _CHUNK
        self.overflow: Callable[[], None] = _ignore
        self.arrived: Callable[[], None] = _ignore
        self._fd = ours
        self._loop = loop
        self._tail = tail
        self._parts = bytearray()
        self._pause: asyncio.TimerHandle | None = None
        self._full = False
        os.set_blocking(ours, False)

    def start(self) -> None:
        """The child has its end: close ours of it, and listen."""
        os.close(self.theirs)
        self.theirs = -1
        self._listen()

    def take(self) -> bytes:
        """All that has come so far, also what still lies in the pipe; the next call starts empty."""
        for _ in range(_MOST_READS):
            if self._fd < 0 or not self._read():
                break
        parts, self._parts = bytes(self._parts), bytearray()
        self._full = False
        if self._pause is not None:
            self._pause.cancel()
            self._listen()
        return parts[-self.limit :] if self._tail else parts[: self.limit]

    @property
    def complete(self) -> bool:
        """What has come ends with the end of a line."""
        return self._parts.endswith(b"\n")

    def line(self) -> bytes | None:
        """The first complete line, taken out, without its end."""
        head, end, rest = self._parts.partition(b"\n")
        if not end:
            return None
        self._parts = bytearray(rest)
        return bytes(head)

    def close(self) -> None:
        """Stop and close; twice is fine."""
        if self._pause is not None:
            self._pause.cancel()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
            os.close(fd)
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def _listen(self) -> None:
        self._pause = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._on_readable)

    def _on_readable(self) -> None:
        self._read()
        if self._full and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(_CALM, self._listen)

    def _read(self) -> bool:
        """Read once; False when there is nothing now, or nothing ever."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            return False
        self._keep(data)
        self.arrived()
        return True

    def _keep(self, data: bytes) -> None:
        self._parts += data
        if len(self._parts) <= self.limit:
            return
        if self._tail:
            # Cut rarely: shifting the whole tail for every few bytes would be quadratic.
            if len(self._parts) > 2 * self.limit + _CHUNK:
                del self._parts[: -self.limit]
        else:
            del self._parts[self.limit :]
            self.overflow()
        self._full = True


class Writer:
    """Feeds bytes into a child as fast as it reads them. A child that does not want them is no error."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.theirs, self._fd = os.pipe()
        self._loop = loop
        self._data = memoryview(b"")
        self._last = False
        os.set_blocking(self._fd, False)

    def start(self) -> None:
        """The child has its end: close ours of it."""
        os.close(self.theirs)
        self.theirs = -1

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Write all of ``data``; with ``last`` the child then sees the end of the file."""
        self._data = memoryview(bytes(self._data) + data)
        self._last = last
        self._flush()

    def close(self) -> None:
        """Close both ends; twice is fine. What was not yet written is dropped."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_writer(fd)
            os.close(fd)
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def _flush(self) -> None:
        try:
            while self._data and self._fd >= 0:
                self._data = self._data[os.write(self._fd, self._data) :]
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._flush)
            return
        except BrokenPipeError:
            self._data, self._last = memoryview(b""), True
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            if self._last:
                self.close()


def _ignore() -> None:
    pass
