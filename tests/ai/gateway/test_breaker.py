"""The breaker: when it opens, who is the probe, how its pauses grow."""

from __future__ import annotations

import pytest

from appliance.ai.gateway.breaker import FAILURES, FIRST, LONGEST, Breaker
from appliance.contracts import NodeError


def opened() -> Breaker:
    breaker = Breaker("the upstream 'x'")
    for _ in range(FAILURES):
        breaker.admit(0.0)
        breaker.failed(0.0, "no route")
    return breaker


def refused(breaker: Breaker, now: float) -> NodeError:
    with pytest.raises(NodeError) as caught:
        breaker.admit(now)
    return caught.value


def test_some_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker("x")
    for _ in range(FAILURES * 2):
        breaker.failed(0.0, "no route")
        breaker.succeeded()
        breaker.admit(0.0)
    for _ in range(FAILURES):
        breaker.admit(0.0)
        breaker.failed(0.0, "no route")
    error = refused(breaker, 1.0)
    assert error.retryable
    assert error.detail == {"retry_after": FIRST - 1.0, "breaker": "open"}
    assert "no route" in error.message
    assert breaker.view(1.0) == "open"


def test_one_caller_alone_is_the_probe() -> None:
    breaker = opened()
    breaker.admit(FIRST)
    assert breaker.view(FIRST) == "probing"
    refused(breaker, FIRST)
    breaker.succeeded()
    breaker.admit(FIRST)
    assert breaker.view(FIRST) == "closed"


def test_a_probe_that_was_called_off_leaves_its_place_to_another() -> None:
    breaker = opened()
    breaker.admit(FIRST)
    breaker.left()
    breaker.admit(FIRST)
    refused(breaker, FIRST)


def test_pauses_double_up_to_a_bound_and_begin_small_again() -> None:
    breaker, now, pauses = opened(), FIRST, []
    for _ in range(10):
        breaker.admit(now)
        breaker.failed(now, "still not")
        pauses.append(refused(breaker, now).detail["retry_after"])
        now += pauses[-1]
    assert pauses[:3] == [FIRST * 2, FIRST * 4, FIRST * 8]
    assert pauses[-1] == LONGEST
    breaker.admit(now)
    breaker.succeeded()
    for _ in range(FAILURES):
        breaker.failed(now, "again")
    assert refused(breaker, now).detail["retry_after"] == FIRST
