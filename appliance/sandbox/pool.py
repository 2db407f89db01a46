"""Warm children that wait for work, each only for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from appliance.sandbox.seats import Seat


class Pool:
    """Idle seats by what they can serve. The oldest goes when there are more than ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: list[Seat] = []

    def take(self, key: Hashable) -> Seat | None:
        """The one that was given last, which is the warmest; None if there is none alive."""
        for seat in reversed(self._idle):
            if seat.key == key:
                self._remove(seat)
                if seat.child.alive:
                    return seat
                seat.discard()
        return None

    def has(self, key: Hashable) -> bool:
        return any(seat.key == key and seat.child.alive for seat in self._idle)

    def give(self, loop: asyncio.AbstractEventLoop, seat: Seat, seconds: float) -> None:
        """Keep a seat for some seconds."""
        self._idle.append(seat)
        seat.timer = loop.call_later(seconds, self._expire, seat)
        if len(self._idle) > self._most:
            self._expire(self._idle[0])

    def count(self) -> int:
        return sum(seat.child.alive for seat in self._idle)

    def clear(self) -> None:
        """Forget all; the owner ends them."""
        for seat in list(self._idle):
            self._remove(seat)

    def _expire(self, seat: Seat) -> None:
        if seat in self._idle:
            self._remove(seat)
            seat.discard()

    def _remove(self, seat: Seat) -> None:
        self._idle.remove(seat)
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
