"""The way to one upstream: how many at once, how many a minute, and a pause where the upstream asked for one.

Waiting ones go by their flow's priority, then in the order of their coming. Rates are counted over the last minute, as
most providers do.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from appliance.contracts import Busy

MINUTE = 60.0
#: Callers that may wait for one upstream.
MOST_WAITING = 256


class Lane:
    """Used on one asyncio loop. Bounds of 0 do not bind; the clock is monotonic seconds."""

    def __init__(
        self,
        name: str,
        *,
        at_once: int = 0,
        requests: int = 0,
        tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = name
        self._at_once = at_once
        self._requests = requests
        self._tokens = tokens
        self._clock = clock
        self._sleep = sleep
        self._under_way = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._asked: deque[float] = deque()
        self._used: deque[tuple[float, int]] = deque()
        self._closed_until = 0.0

    @asynccontextmanager
    async def turn(self, priority: int, patience: float) -> AsyncIterator[None]:
        """Wait for a turn, ``patience`` seconds at most. Raises ``Busy`` if it will take longer than that."""
        await self._enter(priority)
        try:
            deadline = self._clock() + patience
            while wait := self.wait():
                if self._clock() + wait > deadline:
                    raise Busy(f"{self._name} has had as much as it takes in a minute", retry_after=wait)
                await self._sleep(wait)
            self._asked.append(self._clock())
            yield
        finally:
            self._leave()

    def wait(self) -> float:
        """Seconds until the next request may go; 0 if now. Raises ``Busy`` while the upstream wants a pause."""
        now = self._clock()
        if self._closed_until > now:
            raise Busy(f"{self._name} asked for a pause", retry_after=self._closed_until - now)
        while self._asked and self._asked[0] <= now - MINUTE:
            self._asked.popleft()
        while self._used and self._used[0][0] <= now - MINUTE:
            self._used.popleft()
        waits = [0.0]
        if self._requests and len(self._asked) >= self._requests:
            waits.append(self._asked[0] + MINUTE - now)
        if self._tokens and sum(count for _, count in self._used) >= self._tokens:
            waits.append(self._used[0][0] + MINUTE - now)
        return max(waits)

    def used(self, tokens: int) -> None:
        """So many tokens were read and made."""
        if self._tokens:
            self._used.append((self._clock(), tokens))

    def pause(self, seconds: float) -> None:
        """The upstream has asked to be left alone for so long."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    async def _enter(self, priority: int) -> None:
        if not self._at_once or self._under_way < self._at_once:
            self._under_way += 1
            return
        if len(self._waiting) >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} requests wait for {self._name} already", retry_after=10.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-priority, next(self._numbers), turn))
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave()
            turn.cancel()
            raise

    def _leave(self) -> None:
        """Hand the place on to the next who still waits."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._under_way -= 1
