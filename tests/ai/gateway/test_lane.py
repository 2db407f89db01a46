"""The way to an upstream: how many at once, how many a minute, who goes first, and the pause that it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from appliance.ai.gateway import lane as lanes
from appliance.ai.gateway.lane import Lane
from appliance.contracts import Busy


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def run(work: Callable[[Time], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await work(Time())

    return asyncio.run(bounded())


def make(time: Time, **bounds: int) -> Lane:
    return Lane("x", clock=time, sleep=time.sleep, **bounds)


async def stay(lane: Lane) -> None:
    """Take a turn and keep it until cancelled."""
    async with lane.turn(0, 60.0):
        await asyncio.Event().wait()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_no_more_at_once_than_it_takes_and_the_more_urgent_first() -> None:
    async def work(time: Time) -> list[str]:
        lane, order, go = make(time, at_once=1), list[str](), asyncio.Event()

        async def one(name: str, priority: int) -> None:
            async with lane.turn(priority, 60.0):
                order.append(name)
                await go.wait()

        tasks = [asyncio.create_task(one("first", 0))]
        await settle()
        for name, priority in (("b", 0), ("c", 0), ("low", -5), ("high", 5)):
            tasks.append(asyncio.create_task(one(name, priority)))
            await settle()
        assert order == ["first"]
        go.set()
        await asyncio.gather(*tasks)
        return order

    assert run(work) == ["first", "high", "b", "c", "low"]


def test_who_gives_up_waiting_takes_no_place() -> None:
    async def work(time: Time) -> None:
        lane = make(time, at_once=1)
        async with lane.turn(0, 60.0):
            tasks = [asyncio.create_task(stay(lane)) for _ in range(3)]
            await settle()
            tasks[0].cancel()
            await settle()
        tasks[2].cancel()
        await settle()
        assert [task.done() for task in tasks] == [True, False, True]
        waits = asyncio.create_task(stay(lane))
        await settle()
        tasks[1].cancel()
        await settle()
        waits.cancel()
        await settle()
        async with lane.turn(0, 60.0):
            pass

    run(work)


def test_one_that_is_called_off_in_the_moment_of_its_turn_hands_it_on() -> None:
    async def work(time: Time) -> None:
        lane = make(time, at_once=1)
        waits: list[asyncio.Task[None]] = []
        async with lane.turn(0, 60.0):
            waits.append(asyncio.create_task(stay(lane)))
            await settle()
        waits[0].cancel()
        await settle()
        async with lane.turn(0, 60.0):
            pass

    run(work)


def test_a_queue_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_WAITING", 2)

    async def work(time: Time) -> None:
        lane = make(time, at_once=1)
        async with lane.turn(0, 60.0):
            tasks = [asyncio.create_task(stay(lane)) for _ in range(2)]
            await settle()
            with pytest.raises(Busy):
                await stay(lane)
            for task in tasks:
                task.cancel()
            await settle()

    run(work)


def test_so_many_in_a_minute_and_then_it_waits() -> None:
    async def work(time: Time) -> None:
        lane = make(time, requests=3)
        for _ in range(3):
            async with lane.turn(0, 100.0):
                time.now += 10
        async with lane.turn(0, 100.0):
            pass
        assert time.slept == [30.0]

    run(work)


def test_tokens_of_the_last_minute_count_as_well() -> None:
    async def work(time: Time) -> None:
        lane = make(time, tokens=100)
        async with lane.turn(0, 100.0):
            lane.used(150)
        time.now += 5
        async with lane.turn(0, 100.0):
            pass
        assert time.slept == [55.0]

    run(work)


def test_nobody_waits_longer_than_it_has_patience() -> None:
    async def work(time: Time) -> None:
        lane = make(time, requests=1)
        async with lane.turn(0, 10.0):
            pass
        with pytest.raises(Busy) as caught:
            async with lane.turn(0, 10.0):
                raise AssertionError("it must not come in")
        assert caught.value.retry_after == 60.0
        time.now += 60
        async with lane.turn(0, 10.0):
            pass

    run(work)


def test_a_pause_that_the_upstream_wants_refuses_at_once() -> None:
    async def work(time: Time) -> None:
        lane = make(time)
        lane.pause(30.0)
        with pytest.raises(Busy) as caught:
            async with lane.turn(0, 100.0):
                raise AssertionError("it must not come in")
        assert caught.value.retry_after == 30.0
        time.now += 30
        async with lane.turn(0, 100.0):
            pass

    run(work)
