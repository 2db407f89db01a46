"""What every shared service promises, on real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.contracts import ConfigError
from appliance.sharing.opening import open_service
from appliance.sharing.service import Service, ServiceAway
from tests.queue.support import free_port

OpenShared = Callable[[], Service]


def test_messages_come_in_order_to_their_box_and_once(service: Service, open_shared: OpenShared) -> None:
    other = open_shared()
    for number in range(200):
        other.send("mine", b"%d" % number)
    other.send("another", b"not mine")
    found: list[bytes] = []
    while len(found) < 200:
        found += service.receive("mine", 5.0)
    assert found == [b"%d" % number for number in range(200)]
    assert service.receive("mine", 0.01) == []
    assert service.receive("another", 5.0) == [b"not mine"]


def test_a_large_message_arrives_whole(service: Service) -> None:
    data = bytes(range(256)) * 40_000
    service.send("box", data)
    assert service.receive("box", 5.0) == [data]


def test_who_waits_is_woken_at_once(service: Service, open_shared: OpenShared) -> None:
    """The message comes long before the look that would be made anyhow."""
    other, got = open_shared(), threading.Event()

    def wait() -> None:
        service.receive("box", 0.01)  # connects; whoever sends from here on wakes us
        ready.set()
        while not service.receive("box", 30.0):
            pass
        got.set()

    ready = threading.Event()
    threading.Thread(target=wait, daemon=True).start()
    assert ready.wait(10)
    other.send("box", b"wake")
    assert got.wait(10)


def test_two_gateways_take_from_one_bucket(service: Service, open_shared: OpenShared) -> None:
    other = open_shared()
    answers = [(service if number % 2 else other).take("ann", 0.001, 10, 1) for number in range(14)]
    assert sum(answer >= 0 for answer in answers) == 10
    assert answers[9] == pytest.approx(0, abs=0.5)
    assert all(900 < -answer <= 1001 for answer in answers[10:])
    assert service.take("bob", 0.001, 10, 1) == pytest.approx(9, abs=0.1)


def test_a_bucket_is_refilled_and_refusing_costs_nothing(service: Service) -> None:
    assert service.take("ann", 50.0, 2, 2) >= 0
    waits = []
    deadline = time.monotonic() + 10
    while (left := service.take("ann", 50.0, 2, 1)) < 0:
        waits.append(-left)
        assert time.monotonic() < deadline
    assert all(wait <= 0.021 for wait in waits)


def test_a_value_is_new_once_until_it_ends(service: Service, open_shared: OpenShared) -> None:
    other = open_shared()
    assert service.put_new("key", b"first", 60.0) is None
    assert other.put_new("key", b"second", 60.0) == b"first"
    other.put("key", b"third", 60.0)
    assert service.put_new("key", b"fourth", 60.0) == b"third"
    service.drop("key")
    assert other.put_new("key", b"fifth", 0.001) is None
    deadline = time.monotonic() + 10
    while (found := service.put_new("key", b"sixth", 60.0)) is not None:
        assert found == b"fifth"
        assert time.monotonic() < deadline


def test_only_one_of_many_is_first(service: Service) -> None:
    found: list[bytes | None] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append(service.put_new("race", name, 60.0)))
        for name in (b"a", b"b", b"c", b"d", b"e", b"f")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 1
    assert len(set(found)) == 2


def test_all_have_one_clock(service: Service, open_shared: OpenShared) -> None:
    other = open_shared()
    assert service.clock() == pytest.approx(other.clock(), abs=0.5)
    before = service.clock()
    assert service.clock() >= before


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}/0", "postgresql://ann:hunter2@127.0.0.1:{port}/db"])
def test_a_server_that_is_away_is_said_without_its_password(url: str) -> None:
    service = open_service(url.format(port=free_port()), "name")
    with pytest.raises(ServiceAway, match="cannot be used") as caught:
        service.send("box", b"data")
    assert "hunter2" not in str(caught.value)
    service.close()


def test_only_servers_can_be_shared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="redis://"):
        open_service(f"sqlite:///{tmp_path}/queue.db", "name")
