"""The consumer in this process's threads: starting, stopping, failing, and wake-ups in memory."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.queue.app import make_huey
from appliance.queue.consumer import RunningConsumer, start_consumer
from appliance.queue.errors import QueueError
from appliance.queue.storage import LeasedSqliteStorage
from appliance.queue.tasks import TaskQueue
from tests.queue.conftest import Clock, OpenStorage
from tests.queue.support import PATIENCE, free_port, redis_server, until


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[TaskQueue]:
    queue = make_huey(None, tmp_path / "data")
    yield queue
    queue.close()


@pytest.fixture
def storage(queue: TaskQueue) -> LeasedSqliteStorage:
    assert queue.leases is not None
    return queue.leases


class Start:
    """Starts consumers and sees to it that they are stopped."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, queue: TaskQueue, workers: int = 2) -> RunningConsumer:
        consumer = start_consumer(queue, workers)
        self._stack.callback(lambda: consumer.stop(PATIENCE))
        return consumer


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield Start(stack)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


# --- starting and stopping ------------------------------------------------------------------------


def test_it_runs_beside_the_processs_own_signal_handlers(queue: TaskQueue, start: Start) -> None:
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in watched]
    consumers: list[RunningConsumer] = []
    thread = threading.Thread(target=lambda: consumers.append(start(queue, 2)))
    thread.start()
    thread.join(PATIENCE)
    assert names() >= {"Worker-1", "Worker-2", "Scheduler", "Lane", "Keeper"}
    assert [signal.getsignal(number) for number in watched] == before
    assert consumers[0].stop(PATIENCE)
    assert consumers[0].stop(PATIENCE)
    assert not names() & {"Worker-1", "Worker-2", "Scheduler", "Lane", "Keeper"}


def test_stopping_waits_for_what_is_under_way_and_acknowledges_it(queue: TaskQueue, start: Start) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @queue.task()
    def work() -> None:
        began.set()
        assert go_on.wait(PATIENCE)
        ended.set()

    consumer = start(queue, 1)
    work()
    work()
    assert began.wait(PATIENCE)
    assert not consumer.stop(0.05), "it is still under way"
    go_on.set()
    assert consumer.stop(PATIENCE)
    assert ended.is_set()
    assert queue.pending_count() == 1, "the second one waits for the next start"


def test_at_least_one_worker_is_needed(queue: TaskQueue) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        start_consumer(queue, 0)


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_its_task_is_not_lost(
    queue: TaskQueue, storage: LeasedSqliteStorage, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    leave = queue.task(name="leave")(lambda: sys.exit(3))
    work = queue.task(name="work")(lambda: done.set())
    start(queue, 1)
    leave()
    work()
    assert done.wait(PATIENCE)
    assert "Worker 1 died, restarting" in caplog.text
    until(lambda: storage._db.query("select attempts from task where owner is not null") == [(1,)])
    assert storage._held == {}, "its lease is not renewed"


def test_a_result_that_cannot_be_kept_is_given_up_with_its_reason(
    queue: TaskQueue, storage: LeasedSqliteStorage, start: Start
) -> None:
    queue.results = True
    start(queue)
    queue.task(name="bad")(lambda: {1, 2})()
    (dead,) = until(storage.dead.tasks)
    assert "the queue cannot carry a value of type builtins.set" in dead.reason


def test_a_task_whose_retry_cannot_be_enqueued_is_left_to_its_lease(
    queue: TaskQueue, storage: LeasedSqliteStorage, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    @queue.task(retries=1)
    def fail(filler: bytes) -> None:
        storage._db.query("pragma max_page_count = 1")  # SQLite takes it as: not more than now
        with contextlib.suppress(QueueError):
            while True:
                storage.enqueue(filler, priority=-1)
        raise RuntimeError("once more, please")

    fail(bytes(50_000))
    start(queue, 1)
    until(lambda: "is left to be tried again" in caplog.text)
    assert storage._db.query("select attempts from task where id = 1 and owner is not null") == [(1,)]
    assert storage._held == {}


def test_an_outage_is_said_once_and_ends_by_itself(
    queue: TaskQueue, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    work = queue.task()(lambda: done.set())
    start(queue, 1)
    until(lambda: (tmp_path / "data" / "queue.db").exists())
    (tmp_path / "data").rename(tmp_path / "away")
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(QueueError, match="cannot be used"):
        work()
    until(lambda: "The queue cannot be read" in caplog.text)
    (tmp_path / "data").unlink()
    (tmp_path / "away").rename(tmp_path / "data")
    until(lambda: "This is over: the queue cannot be read" in caplog.text)
    work()
    assert done.wait(PATIENCE)
    said = [record for record in caplog.records if record.getMessage().startswith("The queue cannot be read")]
    assert len(said) == 1
    assert said[0].exc_info is None


def test_redis_may_go_away_and_come_back(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    seen: list[int] = []
    with redis_server(tmp_path, port) as url:
        queue = make_huey(url, tmp_path)
        queue.storage.read_timeout = 0.1
        work = queue.task()(seen.append)
        consumer = start(queue, 1)
        work(1)
        until(lambda: seen == [1])
    with pytest.raises(QueueError, match="the queue's server cannot be used"):
        work(2)
    until(lambda: "The queue cannot be read" in caplog.text)
    with redis_server(tmp_path, port):
        until(lambda: "This is over: the queue cannot be read" in caplog.text)
        work(3)
        until(lambda: seen == [1, 3])
        assert consumer.stop(PATIENCE)
        queue.close()


def test_the_leases_of_long_tasks_are_renewed(
    open_storage: OpenStorage, clock: Clock, start: Start, tmp_path: Path
) -> None:
    go_on = threading.Event()
    queue = TaskQueue(
        "flowork", results=False, storage_class=LeasedSqliteStorage, path=tmp_path / "queue.db", clock=clock, lease=60
    )
    work = queue.task()(lambda: go_on.wait(PATIENCE))
    consumer = start(queue, 1)
    work()
    other = open_storage(lease=60)
    lease = "select lease_until from task where owner is not null"
    until(lambda: other._db.query(lease) == [(clock.time + 60,)])
    clock.time += 45
    until(lambda: other._db.query(lease) == [(clock.time + 60,)])
    clock.time += 45
    assert other.claim(timeout=0) is None
    go_on.set()
    until(lambda: other._db.query("select count(*) from task") == [(0,)])
    assert consumer.stop(PATIENCE)
    queue.close()


# --- wake-ups -------------------------------------------------------------------------------------


def test_wake_ups_inside_the_consumers_process_cost_no_write(queue: TaskQueue, start: Start, tmp_path: Path) -> None:
    calls: list[str] = []
    wake = queue.volatile_task("wake")(lambda number: calls.append(threading.current_thread().name))
    warm = threading.Event()
    warm_up = queue.task(name="warm_up")(lambda: warm.set())
    start(queue)
    warm_up()
    assert warm.wait(PATIENCE)
    until(lambda: queue.leases is not None and not queue.leases._held)
    before = files(tmp_path / "data")
    for number in range(200):
        wake(number)
    until(lambda: len(calls) == 200)
    assert files(tmp_path / "data") == before
    assert set(calls) == {"Lane"}


def test_of_equal_wake_ups_one_is_pending(queue: TaskQueue, start: Start) -> None:
    began, go_on = threading.Semaphore(0), threading.Semaphore(0)
    calls: list[Any] = []

    @queue.volatile_task()
    def wake(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        began.release()
        assert go_on.acquire(timeout=PATIENCE)

    start(queue)
    wake()
    assert began.acquire(timeout=PATIENCE)
    for _ in range(100):
        wake()
        wake(1, a=2, b=[3])
        wake(1, b=[3], a=2)
    for _ in range(3):
        go_on.release()
    until(lambda: len(calls) == 3)
    assert calls == [((), {}), ((), {}), ((1,), {"a": 2, "b": [3]})]
    assert queue.pending_count() == 0


def test_a_wake_up_that_fails_is_logged_and_the_next_one_comes(
    queue: TaskQueue, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    fail = queue.volatile_task("fail")(lambda: 1 / 0)
    leave = queue.volatile_task("leave")(lambda: sys.exit(3))
    wake = queue.volatile_task("wake")(lambda: done.set())
    start(queue)
    fail()
    wake()
    assert done.wait(PATIENCE)
    assert "The wake-up fail failed" in caplog.text
    done.clear()
    leave()
    wake()
    assert done.wait(PATIENCE), "the thread is replaced"


def test_without_a_consumer_a_wake_up_becomes_one_row(queue: TaskQueue, start: Start) -> None:
    calls: list[str] = []
    wake = queue.volatile_task("wake", priority=3)(lambda: calls.append(threading.current_thread().name))
    for _ in range(50):
        wake()
    assert queue.pending_count() == 1
    consumer = start(queue)
    until(lambda: calls)
    assert consumer.stop(PATIENCE)
    assert calls == ["Lane"]
    assert queue.pending_count() == 0


def test_a_wake_up_that_comes_while_the_consumer_stops_is_for_the_next_one(queue: TaskQueue) -> None:
    wake = queue.volatile_task("wake")(lambda: None)
    wake()
    assert queue.take() is None, "there is no lane that could take it"
    assert queue.pending_count() == 1


def test_a_wake_up_at_a_time_stands_in_the_schedule(queue: TaskQueue, start: Start) -> None:
    done = threading.Event()
    wake = queue.volatile_task("wake")(lambda: done.set())
    wake.schedule(delay=3600)
    consumer = start(queue)
    until(lambda: queue.scheduled_count() == 1)
    assert consumer.stop(PATIENCE)
    assert not done.is_set()
    queue.read_schedule(queue._get_timestamp() + timedelta(hours=2))
    assert (queue.scheduled_count(), queue.pending_count()) == (0, 1)


def test_the_time_to_expire_counts_from_when_a_task_is_due(queue: TaskQueue) -> None:
    late = queue.task(expires=10)(lambda: None)
    task = late.s(eta=queue._get_timestamp())
    task.expires_resolved = queue._get_timestamp() - timedelta(hours=1)
    queue.add_schedule(task)
    queue.read_schedule(queue._get_timestamp())
    (pending,) = queue.pending()
    assert pending.expires_resolved > queue._get_timestamp()


def test_a_scheduled_message_that_cannot_be_read_is_given_up(
    queue: TaskQueue, storage: LeasedSqliteStorage, caplog: pytest.LogCaptureFixture
) -> None:
    late = queue.task(name="late", priority=7)(lambda: None)
    now = queue._get_timestamp()
    storage.add_to_schedule(b"\xc1", now)
    queue.add_schedule(late.s(eta=now))
    with caplog.at_level(logging.ERROR):
        assert queue.read_schedule(now + timedelta(seconds=1)) == []
    assert [task.name for task in queue.pending()] == ["late"]
    assert storage._db.query("select priority from task") == [(7.0,)]
    (dead,) = storage.dead.tasks()
    assert dead.data == b"\xc1"
    assert dead.reason.startswith("it cannot be read")
