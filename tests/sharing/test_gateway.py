"""What gateways agree on through the shared service, and what they do while it is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from appliance.gateway.changes import Changes
from appliance.gateway.idempotency import Answer, InProgress, KeyReused
from appliance.gateway.shared import SharedLimiter, SharedRemembered
from appliance.security.ratelimit import Rate
from appliance.security.sealing import Cipher
from appliance.sharing.service import Service, ServiceAway
from appliance.store.errors import StoreAway

OpenShared = Callable[[], Service]
ANSWER = Answer(201, b'{"token": "flw_secret"}', {"Location": "/tokens/1"})
RATE = Rate(per_second=0.001, burst=5)


def always(service: Service) -> Callable[[], Service]:
    return lambda: service


def away() -> Service:
    raise ServiceAway("gone")


def remembered(service: Callable[[], Service], key: bytes = bytes(32)) -> SharedRemembered:
    return SharedRemembered(time.monotonic, service, lambda: Cipher(key))


def test_two_gateways_count_a_caller_together(open_shared: OpenShared) -> None:
    first, second = (SharedLimiter("call", RATE, always(open_shared())) for _ in range(2))
    taken = [(first if number % 2 else second).take("ann").allowed for number in range(8)]
    assert taken == [True] * 5 + [False] * 3
    assert first.take("bob").remaining == 4
    refused = second.take("ann")
    assert 0 < refused.retry_after <= 1000


def test_without_the_service_each_gateway_counts_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    limiter = SharedLimiter("call", RATE, away)
    assert [limiter.take("ann").allowed for _ in range(7)] == [True] * 5 + [False] * 2
    assert [record.message for record in caplog.records] == ["callers are counted by this gateway alone: gone"]


def test_the_other_gateway_gives_the_same_answer(open_shared: OpenShared) -> None:
    first, second = (remembered(always(open_shared())) for _ in range(2))
    assert first.begin("key", b"digest") is None
    with pytest.raises(InProgress):
        second.begin("key", b"digest")
    first.keep("key", ANSWER)
    assert second.begin("key", b"digest") == ANSWER
    with pytest.raises(KeyReused):
        second.begin("key", b"other")


def test_what_failed_may_be_tried_again_anywhere(open_shared: OpenShared) -> None:
    first, second = (remembered(always(open_shared())) for _ in range(2))
    assert first.begin("key", b"digest") is None
    first.drop("key")
    assert second.begin("key", b"digest") is None


def test_an_answer_lies_sealed_under_a_name_that_tells_nothing(service: Service) -> None:
    put: list[tuple[str, bytes]] = []

    class Seen:
        def put_new(self, key: str, value: bytes, age: float) -> bytes | None:
            put.append((key, value))
            return service.put_new(key, value, age)

        def put(self, key: str, value: bytes, age: float) -> None:
            put.append((key, value))
            service.put(key, value, age)

    seen: Any = Seen()
    one = remembered(lambda: seen)
    one.begin("ann the-key", b"digest")
    one.keep("ann the-key", ANSWER)
    assert all(b"flw_secret" not in value and "ann" not in name for name, value in put)
    # What others have put there counts for nothing.
    assert remembered(lambda: service, b"k" * 32).begin("ann the-key", b"digest") is None


def test_without_the_service_a_gateway_remembers_by_itself() -> None:
    one = remembered(away)
    assert one.begin("key", b"digest") is None
    one.keep("key", ANSWER)
    assert one.begin("key", b"digest") == ANSWER


def test_a_database_that_is_away_leaves_a_gateway_what_it_knew() -> None:
    counters: list[dict[str, int]] = [{"settings": 3}]

    class Store:
        def changes(self) -> dict[str, int]:
            if not counters:
                raise StoreAway("gone")
            return counters.pop()

    store: Any = Store()
    now = [0.0]
    changes = Changes(store, lambda: now[0])
    assert changes["settings"] == 3
    now[0] += 10
    assert changes["settings"] == 3
    with pytest.raises(StoreAway):
        Changes(store, lambda: 0.0)["settings"]
