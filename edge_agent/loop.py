"""What the agent's thread waits for: its connection, the clock, and calls that other threads want made there."""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from edge_agent.protocol.channel import Channel


class Loop:
    """``post`` and ``ring`` are safe from any thread and from a signal handler; the rest is for the loop's own."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self._bell_read, self._bell_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._bell_read, selectors.EVENT_READ)

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop do something."""
        self._calls.append(call)
        self.ring()

    def ring(self) -> None:
        """Have it look."""
        with suppress(OSError):  # full: it will be heard; closed: there is nobody any more
            os.write(self._bell_write, b"x")

    def wait(self, channel: Channel | None, seconds: float | None) -> int:
        """What a connection is ready for (as ``selectors`` has it, 0: nothing), at most so many seconds later."""
        self._attend_to(channel)
        ready = 0
        for key, events in self._selector.select(seconds):
            if key.fileobj == self._bell_read:
                with suppress(BlockingIOError):
                    os.read(self._bell_read, 65536)
            else:
                ready = events
        return ready

    def _attend_to(self, channel: Channel | None) -> None:
        known = [key for key in self._selector.get_map().values() if key.fileobj != self._bell_read]
        for key in known:
            if key.fileobj is not channel:
                self._selector.unregister(key.fileobj)
            elif key.events != channel.wants:
                self._selector.modify(channel, channel.wants)
        if channel is not None and not any(key.fileobj is channel for key in known):
            self._selector.register(channel, channel.wants)

    def calls(self) -> Iterator[Callable[[], None]]:
        """What was posted, until there is no more."""
        while self._calls:
            yield self._calls.popleft()

    def close(self) -> None:
        """Twice is fine."""
        if self._bell_write >= 0:
            self._selector.close()
            os.close(self._bell_read)
            bell, self._bell_write = self._bell_write, -1
            os.close(bell)
