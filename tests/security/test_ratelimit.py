"""Token buckets: burst, refill, fairness, bounds."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.security.ratelimit import Rate, RateLimiter, caller_key
from appliance.security.roles import ANONYMOUS, Identity
from tests.security.memory import Clock


def limiter(per_second: float = 2, burst: float = 5, capacity: int = 100) -> tuple[RateLimiter, Clock]:
    clock = Clock(1000.0)
    return RateLimiter(Rate(per_second, burst), capacity=capacity, clock=clock), clock


def test_a_burst_and_then_the_rate() -> None:
    limit, clock = limiter()
    assert [limit.take("a").allowed for _ in range(6)] == [True] * 5 + [False]
    clock.time += 0.5
    assert limit.take("a").allowed
    assert not limit.take("a").allowed
    clock.time += 1000
    assert sum(limit.take("a").allowed for _ in range(20)) == 5


def test_retry_after_is_when_it_works() -> None:
    limit, clock = limiter()
    for _ in range(5):
        limit.take("a")
    refused = limit.take("a")
    assert refused.retry_after == 0.5
    clock.time += refused.retry_after
    allowed = limit.take("a")
    assert (allowed.allowed, allowed.retry_after) == (True, 0.0)


def test_remaining_counts_down() -> None:
    limit, _ = limiter()
    assert [limit.take("a").remaining for _ in range(6)] == [4, 3, 2, 1, 0, 0]


def test_who_keeps_trying_is_not_punished() -> None:
    limit, clock = limiter(per_second=1, burst=1)
    assert limit.take("a").allowed
    for _ in range(9):
        clock.time += 0.1
        assert not limit.take("a").allowed
    clock.time += 0.11
    assert limit.take("a").allowed


def test_callers_do_not_share() -> None:
    limit, _ = limiter()
    for _ in range(10):
        limit.take("a")
    assert limit.take("b").allowed


def test_dear_calls() -> None:
    limit, clock = limiter()
    assert limit.take("a", cost=5).allowed
    assert limit.take("a", cost=4).retry_after == 2.0
    clock.time += 2
    assert limit.take("a", cost=4).allowed


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    limit, clock = limiter()
    for _ in range(5):
        limit.take("a")
    clock.time -= 500
    assert not limit.take("a").allowed
    clock.time += 0.5
    assert limit.take("a").allowed, "nor does it take anything away"


def test_memory_is_bounded_and_the_busy_are_remembered() -> None:
    limit, clock = limiter(per_second=0.001, capacity=10)
    for _ in range(6):
        limit.take("flood")
    for number in range(1000):
        clock.time += 0.001
        limit.take(str(number))
        assert not limit.take("flood").allowed
        assert limit.take(str(number)).remaining == 3, "so is who came last"
    assert len(limit) == 10


@given(steps=st.lists(st.floats(0, 3), max_size=60), rate=st.floats(0.1, 10), burst=st.integers(1, 10))
def test_never_more_than_burst_plus_rate(steps: list[float], rate: float, burst: int) -> None:
    limit, clock = limiter(rate, burst)
    start, allowed = clock(), 0
    for step in steps:
        clock.time += step
        allowed += limit.take("a").allowed
    assert allowed <= burst + (clock() - start) * rate + 1e-6


def test_threads_get_no_more_than_the_burst() -> None:
    limit, _ = limiter(per_second=0.001, burst=100)
    wins: list[bool] = []
    gate = threading.Barrier(8)

    def take() -> None:
        gate.wait(timeout=10)
        wins.extend(limit.take("a").allowed for _ in range(50))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sum(wins) == 100


@pytest.mark.parametrize(("rate", "burst", "capacity"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_senseless_rates(rate: float, burst: float, capacity: int) -> None:
    with pytest.raises(ValueError, match="a rate needs"):
        RateLimiter(Rate(rate, burst), capacity=capacity)


@pytest.mark.parametrize("cost", [0, -1, 6])
def test_senseless_costs(cost: float) -> None:
    limit, _ = limiter()
    with pytest.raises(ValueError, match="cost"):
        limit.take("a", cost)


@pytest.mark.parametrize(
    ("remote", "key"),
    [
        ("192.168.1.5", "net:192.168.1.5"),
        ("::ffff:192.168.1.5", "net:192.168.1.5"),
        ("2001:db8:1:2:3:4:5:6", "net:2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "net:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "net:fe80::/64"),
        ("", "net:?"),
        ("unix:", "net:?"),
    ],
)
def test_strangers_are_counted_by_network(remote: str, key: str) -> None:
    assert caller_key(ANONYMOUS, remote) == key


def test_the_known_are_counted_by_who_they_are() -> None:
    token = Identity(kind="token", id="k3")
    assert caller_key(token, "192.168.1.5") == caller_key(token, "10.0.0.1") == "token:k3"
