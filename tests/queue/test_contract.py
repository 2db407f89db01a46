"""One contract that every storage keeps, ours and Huey's on real servers."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from huey.api import chord, crontab
from huey.constants import EmptyData

from appliance.queue.consumer import start_consumer
from appliance.queue.tasks import TaskQueue
from tests.queue.support import until

NOON = datetime(2026, 11, 21, 12, 0, 0, 250_000)
SECOND = timedelta(seconds=1)

OpenQueue = Callable[[], TaskQueue]


@contextmanager
def consuming(queue: TaskQueue, workers: int = 2) -> Iterator[None]:
    consumer = start_consumer(queue, workers)
    try:
        yield
    finally:
        assert consumer.stop(20)


# --- the storage ------------------------------------------------------------------------------------


def test_tasks_come_out_in_order(queue: TaskQueue) -> None:
    storage = queue.storage
    for number in range(3):
        storage.enqueue(b"item-%d" % number)
    assert storage.queue_size() == 3
    assert storage.enqueued_items(2) == [b"item-0", b"item-1"]
    assert storage.dequeue() == b"item-0"
    assert storage.enqueued_items() == [b"item-1", b"item-2"]
    assert [storage.dequeue(), storage.dequeue()] == [b"item-1", b"item-2"]
    assert storage.dequeue() is None
    storage.enqueue(b"again")
    storage.flush_queue()
    assert storage.queue_size() == 0


def test_a_higher_priority_comes_first(queue: TaskQueue) -> None:
    priorities = [1, None, 5, None, 3, -2, 9, None, 7, 0]
    for number, priority in enumerate(priorities):
        queue.storage.enqueue(b"%d" % number, priority)
    order = [int(queue.storage.dequeue()) for _ in priorities]
    assert order == [6, 8, 2, 4, 0, 1, 3, 7, 9, 5]


def test_the_schedule_gives_what_is_due_soonest_first(queue: TaskQueue) -> None:
    storage = queue.storage
    for data, offset in ((b"later", 1), (b"now", 0), (b"before", -1), (b"much later", 2)):
        storage.add_to_schedule(data, NOON + offset * SECOND)
    assert storage.schedule_size() == 4
    assert storage.scheduled_items(2) == [b"before", b"now"]
    assert storage.read_schedule(NOON) == [b"before", b"now"]
    assert storage.scheduled_items() == [b"later", b"much later"]
    assert storage.read_schedule(NOON) == []
    storage.flush_schedule()
    assert storage.schedule_size() == 0


def test_values_by_key(queue: TaskQueue) -> None:
    storage = queue.storage
    storage.put_data(b"k1", b"v1")
    storage.put_data("k2", b"\x00\xff")
    storage.put_data("k1", b"v1-x", is_result=True)
    assert storage.peek_data("k1") == b"v1-x"
    assert storage.peek_data(b"missing") is EmptyData
    assert storage.peek_many(["k1", "missing", "k2"]) == {"k1": b"v1-x", "k2": b"\x00\xff"}
    assert storage.result_items() == {"k1": b"v1-x", "k2": b"\x00\xff"}
    assert storage.result_store_size() == 2
    assert storage.pop_data("k1") == b"v1-x"
    assert storage.pop_data("k1") is EmptyData
    assert not storage.has_data_for_key("k1")
    assert storage.delete_data("k2")
    assert not storage.delete_data("k2")
    storage.put_data("k3", b"v3")
    storage.flush_results()
    assert storage.result_items() == {}


def test_put_if_empty(queue: TaskQueue) -> None:
    assert queue.storage.put_if_empty("lock", b"mine")
    assert not queue.storage.put_if_empty("lock", b"yours")
    assert queue.storage.peek_data("lock") == b"mine"


def test_only_one_of_many_puts_if_empty(open_queue: OpenQueue) -> None:
    queues = [open_queue() for _ in range(4)]
    won: list[int] = []

    def run(queue: TaskQueue) -> None:
        for number in range(20):
            if queue.storage.put_if_empty(f"key-{number}", b"x"):
                won.append(number)

    threads = [threading.Thread(target=run, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(20))


def test_counters(queue: TaskQueue) -> None:
    storage = queue.storage
    assert [storage.incr("a"), storage.incr("a"), storage.incr("a", 10), storage.incr("a", -5)] == [1, 2, 12, 7]
    assert storage.incr("b", 0) == 0
    storage.delete_counter("a")
    storage.delete_counter("missing")
    assert storage.incr("a") == 1
    assert not storage.has_data_for_key("a")
    storage.flush_counters()
    assert storage.incr("a") == 1


# --- the consumer over it -----------------------------------------------------------------------------


def test_tasks_are_executed_with_their_arguments(queue: TaskQueue) -> None:
    seen: list[Any] = []

    @queue.task()
    def note(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    with consuming(queue):
        assert note((1, 2), [b"\x00"], when=NOON, nothing=None) is None
        until(lambda: seen)
    assert seen == [(((1, 2), [b"\x00"]), {"when": NOON, "nothing": None})]
    assert queue.result_count() == 0


def test_a_task_that_raises_is_logged_and_retried_as_often_as_it_says(
    queue: TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    @queue.task(retries=2)
    def fail() -> None:
        calls.append(1)
        raise RuntimeError("the valve is stuck")

    with consuming(queue, workers=1), caplog.at_level(logging.ERROR, "huey"):
        fail()
        until(lambda: len(calls) == 3)
    assert "the valve is stuck" in caplog.text
    assert queue.pending_count() == 0
    assert len(calls) == 3


def test_a_retry_waits_for_its_delay_in_the_schedule(queue: TaskQueue) -> None:
    calls: list[int] = []

    @queue.task(retries=1, retry_delay=3600)
    def fail() -> None:
        calls.append(1)
        raise RuntimeError("not yet")

    with consuming(queue):
        fail()
        until(lambda: queue.scheduled_count() == 1)
    assert calls == [1]
    (task,) = queue.scheduled()
    assert task.retries == 0
    # What the scheduler does an hour later.
    later = queue._get_timestamp() + timedelta(hours=2)
    for due in queue.read_schedule(later):
        queue.enqueue(due)
    assert (queue.scheduled_count(), queue.pending_count()) == (0, 1)


def test_a_scheduled_task_is_executed_when_it_is_due(queue: TaskQueue) -> None:
    done = threading.Event()

    @queue.task(expires=30)
    def late() -> None:
        done.set()

    with consuming(queue):
        late.schedule(delay=0.2)
        assert done.wait(20)


def test_a_pipeline_hands_on_values_and_errors(queue: TaskQueue) -> None:
    seen: list[Any] = []

    @queue.task()
    def divide(a: int, b: int) -> tuple[int, ...]:
        return divmod(a, b)

    @queue.task()
    def note(*values: Any) -> None:
        seen.append(values)

    with consuming(queue):
        queue.enqueue(divide.s(17, 5).then(note))
        until(lambda: seen)
        queue.enqueue(divide.s(1, 0).error(note))
        until(lambda: len(seen) == 2)
    assert seen[0] == (3, 2)
    assert "ZeroDivisionError" in str(seen[1][0])


def test_results_revocation_locks_and_chords_work(queue: TaskQueue) -> None:
    queue.results = True

    @queue.task()
    def double(n: int) -> int:
        return 2 * n

    @queue.task()
    def total(values: list[int]) -> int:
        return sum(values)

    revoked = double(1)
    revoked.revoke()
    with queue.lock_task("one"):
        assert queue.is_locked("one")
    assert not queue.is_locked("one")
    with consuming(queue):
        assert double(4).get(blocking=True, timeout=20) == 8
        combined = queue.enqueue(chord([double.s(1), double.s(2)], total))
        assert combined.get(blocking=True, timeout=20) == 6
    assert revoked.get() is None


def test_periodic_tasks_are_enqueued(queue: TaskQueue) -> None:
    done = threading.Event()

    @queue.periodic_task(crontab())
    def every_minute() -> None:
        done.set()

    with consuming(queue):
        assert done.wait(20)


def test_several_consumers_execute_each_task_once(open_queue: OpenQueue) -> None:
    seen: list[int] = []

    def job(number: int) -> None:
        seen.append(number)

    queues = [open_queue() for _ in range(2)]
    tasks = [queue.task()(job) for queue in queues]
    with consuming(queues[0], 3), consuming(queues[1], 3):
        for number in range(200):
            tasks[number % 2](number)
        until(lambda: len(seen) >= 200)
    assert Counter(seen) == Counter(range(200))


def test_a_wake_up_from_elsewhere_is_executed_by_the_lane(open_queue: OpenQueue) -> None:
    sender, receiver = open_queue(), open_queue()
    threads: list[str] = []
    for queue in (sender, receiver):
        queue.volatile_task("wake")(lambda: threads.append(threading.current_thread().name))
    with consuming(receiver):
        sender.enqueue(sender._registry.string_to_task(f"{__name__}.wake")())
        until(lambda: threads)
    assert threads == ["Lane"]


def test_a_message_that_cannot_be_read_is_given_up(queue: TaskQueue, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    work = queue.task()(lambda: done.set())
    queue.storage.enqueue(b"\x80\x04K\x01.")  # pickle
    work()
    with consuming(queue, workers=1):
        assert done.wait(20)
    assert "cannot be read and is given up" in caplog.text
    assert queue.pending_count() == 0


def test_starting_again_after_a_stop(queue: TaskQueue) -> None:
    seen: list[int] = []
    job = queue.task()(seen.append)
    for number in range(3):
        with consuming(queue):
            job(number)
            until(lambda number=number: number in seen)
    assert seen == [0, 1, 2]
