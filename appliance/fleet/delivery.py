"""The events of one watcher on their way to its trigger: in order, each once, acknowledged behind its commit.

An agent sends again what was not acknowledged when a connection ended. What was handed to the trigger is then still on
its way to the journal, and is left out; what an earlier kernel had brought to the journal is known by the trigger's
cursor, which was written with the run.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from appliance.contracts import Busy, DeviceEvent

logger = logging.getLogger(__name__)

#: Events that are offered to a trigger at once.
MOST = 256
#: Seconds between two tries to hand over what could not be stored.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0

OnEvents = Callable[[list[DeviceEvent]], None]
OnStatus = Callable[[bool | None, str], None]


class Delivery:
    """One watcher of one agent. Used on the fleet's thread, except ``ack``'s closures, which post to it."""

    def __init__(self, watcher: str, post: Callable[[Callable[[], None]], None], send: Callable[[int], None]) -> None:
        """``send(seq)`` tells the agent that everything up to a number may be forgotten."""
        self.watcher = watcher
        self.on_events: OnEvents | None = None
        self.on_status: OnStatus | None = None
        #: Monotonic second at which to offer again, or 0.
        self.retry_at = 0.0
        self._post = post
        self._send = send
        self._outbox = ""
        self._cursor: tuple[str, int] = ("", 0)
        #: The highest number that has come, and up to which all are done.
        self._come = 0
        self._done = 0
        self._held: deque[DeviceEvent] = deque()
        self._under_way: deque[int] = deque()
        self._settled: set[int] = set()
        self._most = MOST
        self._wait = _FIRST_WAIT
        self._told: tuple[bool | None, str] | None = None

    @property
    def waiting(self) -> int:
        """Events that have come and that the trigger has not taken."""
        return len(self._held)

    @property
    def pending(self) -> int:
        """Events that have come and are not acknowledged."""
        return len(self._held) + len(self._under_way)

    def attach(self, on_events: OnEvents, on_status: OnStatus, cursor: Any) -> None:
        """A trigger listens from now on."""
        self.on_events, self.on_status = on_events, on_status
        self._told = None
        self.retry_at, self._most, self._wait = 0.0, MOST, _FIRST_WAIT
        if isinstance(cursor, list | tuple) and len(cursor) == 2 and not self._outbox:
            self._cursor = (str(cursor[0]), int(cursor[1]))

    def detach(self) -> None:
        """Nobody listens; what comes is held, and the agent keeps it."""
        self.on_events = self.on_status = None
        self.retry_at = 0.0

    def forget(self) -> None:
        """The agent was told to stop watching, and forgets what waits there."""
        self._held.clear()

    def say(self, ok: bool | None, text: str) -> None:
        """Tell the trigger how it stands, if that is new."""
        if self.on_status is not None and self._told != (ok, text):
            self._told = (ok, text)
            self.on_status(ok, text)

    # --- events ---------------------------------------------------------------------------------

    def begin(self, outbox: str) -> None:
        """A connection has begun; the numbers that come are of this outbox."""
        if outbox != self._outbox:
            self._outbox = outbox
            self._come = self._done = self._cursor[1] if self._cursor[0] == outbox else 0
            self._held.clear()
            self._under_way.clear()
            self._settled.clear()

    def is_new(self, seq: int) -> bool:
        """Whether an event has not come before; one that is done already is acknowledged again."""
        if seq <= self._done:
            self._send(self._done)
            return False
        return seq > self._come

    def take(self, event: DeviceEvent) -> None:
        """Hold a new event for the trigger."""
        self._come = event.seq
        self._held.append(event)

    def ack_for(self, seq: int) -> Callable[[], None]:
        """The acknowledgement of an event; safe from any thread and at any time."""
        return partial(self._acknowledge, self._outbox, seq)

    def _acknowledge(self, outbox: str, seq: int) -> None:
        self._post(lambda: self._settle(outbox, seq))

    def _settle(self, outbox: str, seq: int) -> None:
        if outbox != self._outbox or seq <= self._done:
            return
        self._settled.add(seq)
        before = self._done
        while self._under_way and self._under_way[0] in self._settled:
            self._done = self._under_way.popleft()
            self._settled.discard(self._done)
        if self._done != before:
            self._send(self._done)

    def offer(self, now: float) -> None:
        """Hand over what is held, until the trigger is busy."""
        while self._held and self.on_events is not None and not self.retry_at:
            batch = [self._held[index] for index in range(min(self._most, len(self._held)))]
            # Noted first: an acknowledgement may come before the call returns.
            self._under_way.extend(event.seq for event in batch)
            try:
                self.on_events(batch)
            except Busy as busy:
                self._take_back(len(batch))
                # A batch that is larger than the room there ever is would be refused for ever.
                self._most = max(1, len(batch) // 2)
                self.retry_at = now + max(0.01, busy.retry_after)
            except Exception as exc:
                logger.exception("events for %s could not be handed over", self.watcher)
                self._take_back(len(batch))
                self.say(False, f"events wait, they could not be taken: {exc}")
                self.retry_at = now + self._wait
                self._wait = min(self._wait * 2, _LONGEST_WAIT)
            else:
                for _ in batch:
                    self._held.popleft()
                self._most = min(MOST, self._most * 2)
                self._wait = _FIRST_WAIT

    def _take_back(self, count: int) -> None:
        for _ in range(count):
            self._under_way.pop()
