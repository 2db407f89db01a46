"""Each nonce counts once: against threads, a full store, a restart and a clock that is set back."""

from __future__ import annotations

import threading

import pytest

from appliance.contracts import Busy
from appliance.security.nonces import MemoryNonces
from tests.security.memory import Clock


def test_once_and_never_again() -> None:
    clock = Clock()
    nonces = MemoryNonces(clock)
    assert nonces.use("a", clock(), clock() + 60)
    assert not nonces.use("a", clock(), clock() + 60)
    assert nonces.use("b", clock(), clock() + 60)


def test_one_winner_among_many_threads() -> None:
    clock = Clock()
    nonces = MemoryNonces(clock)
    wins: list[str] = []
    gate = threading.Barrier(8)

    def race() -> None:
        gate.wait(timeout=10)
        wins.extend(nonce for nonce in map(str, range(200)) if nonces.use(nonce, clock(), clock() + 60))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(wins) == sorted(map(str, range(200)))


def test_a_full_store_refuses_instead_of_forgetting() -> None:
    clock = Clock()
    nonces = MemoryNonces(clock, capacity=2)
    assert nonces.use("a", clock(), clock() + 30)
    assert nonces.use("b", clock(), clock() + 60)
    with pytest.raises(Busy) as refusal:
        nonces.use("c", clock(), clock() + 60)
    assert refusal.value.retry_after == 30
    assert not nonces.use("a", clock(), clock() + 30), "what is known is still known"
    clock.time += 30
    assert nonces.use("c", clock(), clock() + 60)


def test_what_was_forgotten_is_not_new_when_the_clock_goes_back() -> None:
    clock = Clock()
    nonces = MemoryNonces(clock)
    start = clock()
    assert nonces.use("a", start, start + 60)
    clock.time += 3600
    assert nonces.use("b", clock(), clock() + 60)
    clock.time = start + 1
    assert not nonces.use("a", start, start + 60)


def test_what_is_older_than_the_process_is_refused() -> None:
    clock = Clock(1000.0)
    nonces = MemoryNonces(clock)
    assert not nonces.use("a", 999.0, 1060.0)
    assert nonces.use("a", 1000.0, 1060.0)
