"""What our storage promises beyond Huey's contract: leases, poison, hints as rows, values that expire."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from huey.constants import EmptyData

from appliance.queue.dead import _KEPT
from appliance.queue.storage import Claim, LeasedSqliteStorage
from tests.queue.conftest import Clock, OpenStorage
from tests.queue.support import PATIENCE, until

NOON = datetime(2026, 11, 21, 12, 0, 0)


def take(storage: LeasedSqliteStorage) -> Claim:
    claim = storage.claim(timeout=0)
    assert claim is not None
    return claim


def test_a_claimed_task_is_nobody_elses_until_its_lease_runs_out(open_storage: OpenStorage, clock: Clock) -> None:
    first, second = open_storage(lease=60), open_storage(lease=60)
    first.enqueue(b"task")
    claim = take(first)
    assert (claim.data, claim.attempts) == (b"task", 1)
    assert first.queue_size() == 0
    clock.time += 59.9
    assert second.claim(timeout=0) is None
    clock.time += 1
    again = take(second)
    assert (again.id, again.attempts) == (claim.id, 2)
    assert not first.acknowledge(claim), "its lease is lost"
    assert second.acknowledge(again), "and the late acknowledgement did no harm"


def test_an_acknowledged_task_is_gone(open_storage: OpenStorage, clock: Clock) -> None:
    storage = open_storage()
    storage.enqueue(b"task")
    assert storage.acknowledge(take(storage))
    clock.time += 1000
    assert open_storage().claim(timeout=0) is None


def test_keep_renews_what_is_under_way(open_storage: OpenStorage, clock: Clock) -> None:
    first, second = open_storage(lease=60), open_storage(lease=60)
    first.enqueue(b"long")
    claim = take(first)
    for _ in range(10):
        clock.time += 30
        first.keep()
        assert second.claim(timeout=0) is None
    assert first.acknowledge(claim)


def test_a_late_renewal_does_not_give_a_running_task_to_its_own_process(
    storage: LeasedSqliteStorage, clock: Clock
) -> None:
    storage.enqueue(b"long")
    claim = take(storage)
    clock.time += 1000
    assert storage.claim(timeout=0) is None
    assert storage.acknowledge(claim)


def test_an_abandoned_task_comes_back_when_its_lease_has_run_out(storage: LeasedSqliteStorage, clock: Clock) -> None:
    storage.enqueue(b"task")
    storage.abandon(take(storage))
    storage.keep()
    assert storage.claim(timeout=0) is None
    clock.time += 61
    assert take(storage).data == b"task"


def test_a_task_that_is_never_finished_goes_to_the_dead(open_storage: OpenStorage, clock: Clock) -> None:
    storage = open_storage(max_attempts=3)
    storage.enqueue(b"poison", priority=9)
    storage.enqueue(b"good")
    for _ in range(3):
        claim = take(storage)
        assert claim.data == b"poison"
        storage.abandon(claim)
        clock.time += 61
    assert take(storage).data == b"good"
    (dead,) = storage.dead.tasks()
    assert (dead.data, dead.priority, dead.attempts, dead.at) == (b"poison", 9.0, 3, clock.time)
    assert dead.reason == "taken 3 times and never finished; the last time its lease ran out"


def test_a_dead_task_can_be_revived(storage: LeasedSqliteStorage) -> None:
    storage.enqueue(b"task", priority=5)
    storage.bury(take(storage), "it cannot be read")
    (dead,) = storage.dead.tasks()
    assert dead.reason == "it cannot be read"
    assert storage.dead.revive(dead.id)
    assert not storage.dead.revive(dead.id)
    claim = take(storage)
    assert (claim.data, claim.attempts) == (b"task", 1)


def test_only_so_many_dead_tasks_are_kept(storage: LeasedSqliteStorage) -> None:
    for number in range(_KEPT + 5):
        storage.enqueue(b"%d" % number)
        storage.bury(take(storage), "poison")
    dead = storage.dead.tasks(limit=_KEPT * 2)
    assert [task.data for task in (dead[0], dead[-1])] == [b"%d" % (_KEPT + 4), b"5"]
    assert len(dead) == _KEPT


def test_flush_forgets_also_what_is_leased_or_dead(storage: LeasedSqliteStorage) -> None:
    for data in (b"a", b"b", b"c"):
        storage.enqueue(data)
    storage.bury(take(storage), "poison")
    claim = take(storage)
    storage.flush_all()
    assert (storage.queue_size(), storage.dead.tasks(), storage.acknowledge(claim)) == (0, [], False)


def test_of_one_key_only_one_waits(open_storage: OpenStorage) -> None:
    first, second = open_storage(), open_storage()
    first.enqueue_once(b"wake", b"1")
    second.enqueue_once(b"wake", b"2")
    first.enqueue_once(b"other", b"3")
    claim = take(first)
    assert claim.data == b"1"
    second.enqueue_once(b"wake", b"4")  # the first is under way and may have looked already
    assert second.enqueued_items() == [b"3", b"4"]
    assert first.acknowledge(claim)


def test_a_hint_that_waits_already_is_not_written_again(storage: LeasedSqliteStorage, tmp_path: Path) -> None:
    storage.enqueue_once(b"wake", b"1")
    log = tmp_path / "queue.db-wal"
    size = log.stat().st_size
    for _ in range(100):
        storage.enqueue_once(b"wake", b"1")
    assert log.stat().st_size == size


def test_the_queues_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    one, two = LeasedSqliteStorage("one", path=path), LeasedSqliteStorage("two", path=path)
    one.enqueue(b"1")
    one.put_data("key", b"1")
    one.incr("count")
    assert (two.queue_size(), two.peek_data("key"), two.incr("count")) == (0, EmptyData, 1)
    two.flush_all()
    assert (one.queue_size(), one.peek_data("key"), one.incr("count")) == (1, b"1", 2)
    one.close()
    two.close()


def test_values_that_expire(storage: LeasedSqliteStorage, clock: Clock) -> None:
    assert storage.put_if_empty("lock", b"a", ttl=10)
    storage.put_data("result", b"r", is_result=True)
    storage.put_data("setting", b"s")
    clock.time += 9.9
    assert not storage.put_if_empty("lock", b"b", ttl=10)
    clock.time += 0.2
    assert storage.peek_data("lock") is EmptyData
    assert storage.put_if_empty("lock", b"c")
    assert storage.peek_data("lock") == b"c"
    clock.time += 86400
    assert storage.result_items() == {"lock": b"c", "setting": b"s"}
    storage.keep()
    assert storage._db.query("select count(*) from kv") == [(2,)]


def test_many_keys_at_once(storage: LeasedSqliteStorage) -> None:
    keys = [f"key-{number}" for number in range(1200)]
    for key in keys:
        storage.put_data(key, b"v")
    assert storage.peek_many(keys) == dict.fromkeys(keys, b"v")


def test_the_schedule_compares_moments_whatever_their_zone(storage: LeasedSqliteStorage) -> None:
    eastern = timezone(timedelta(hours=9))
    storage.add_to_schedule(b"naive", NOON)
    storage.add_to_schedule(b"aware", NOON.replace(tzinfo=UTC).astimezone(eastern) + timedelta(microseconds=1))
    assert storage.read_schedule(NOON) == [b"naive"]
    assert storage.read_schedule(NOON.replace(tzinfo=UTC) + timedelta(seconds=1)) == [b"aware"]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_the_schedule_keeps_its_order_when_the_clocks_change(storage: LeasedSqliteStorage) -> None:
    storage.add_to_schedule(b"second", datetime(2026, 3, 29, 3, 0))
    storage.add_to_schedule(b"first", datetime(2026, 3, 29, 2, 30))  # no such local time
    assert storage.scheduled_items() == [b"first", b"second"]


def test_promoting_moves_a_due_task_once(open_storage: OpenStorage) -> None:
    first, second = open_storage(), open_storage()
    first.add_to_schedule(b"raw", NOON)
    due = first.due(NOON)
    for storage in (first, second):
        storage.promote([(item, b"cooked", 3) for item in due])
    assert first.enqueued_items() == [b"cooked"]
    assert first.schedule_size() == 0


def test_promoting_late_leaves_alone_what_has_got_the_number_since(open_storage: OpenStorage) -> None:
    first, second = open_storage(), open_storage()
    first.add_to_schedule(b"old", NOON)
    due = first.due(NOON)
    assert second.read_schedule(NOON) == [b"old"]
    second.add_to_schedule(b"new", NOON)
    assert second.due(NOON)[0].id == due[0].id
    first.promote([(item, item.data, None) for item in due])
    first.dead.bury_scheduled(due[0], "it cannot be read")
    assert (first.scheduled_items(), first.queue_size(), first.dead.tasks()) == ([b"new"], 0, [])


def test_waiting_workers_are_woken_by_wake_and_close(open_storage: OpenStorage) -> None:
    storage = open_storage(recheck=3600)
    came_back: list[object] = []

    def wait() -> None:
        came_back.append(storage.claim())

    for end in (storage.wake, storage.close):
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            end()
            threads[0].join(0.01)
        for thread in threads:
            thread.join(PATIENCE)
    assert came_back == [None] * 6


def test_who_was_woken_and_finds_more_rings_for_the_next(open_storage: OpenStorage) -> None:
    first, second = open_storage(recheck=3600), open_storage()
    for data in (b"a", b"b"):
        second.add_to_schedule(data, NOON)
    due = [(item, item.data, None) for item in second.due(NOON)]
    claims: list[Claim | None] = []
    thread = threading.Thread(target=lambda: claims.append(first.claim()))
    thread.start()
    until(lambda: first._bell._waiting)
    second.promote(due)  # two tasks, one ring
    thread.join(PATIENCE)
    assert [claim and claim.data for claim in claims] == [b"a"]
    assert second._bell.wait(PATIENCE)
    assert take(second).data == b"b"


def test_a_closed_storage_opens_again_when_it_is_used(storage: LeasedSqliteStorage) -> None:
    storage.enqueue(b"task")
    storage.close()
    storage.close()
    assert take(storage).data == b"task"


def test_each_task_goes_to_one_of_many_threads(open_storage: OpenStorage) -> None:
    storages = [open_storage() for _ in range(2)]
    for number in range(300):
        storages[0].enqueue(b"%d" % number)
    taken: list[bytes] = []

    def work(storage: LeasedSqliteStorage) -> None:
        while claim := storage.claim(timeout=0):
            taken.append(claim.data)
            assert storage.acknowledge(claim)

    threads = [threading.Thread(target=work, args=(storages[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(map(int, taken)) == list(range(300))


def test_reading_an_idle_queue_writes_nothing(storage: LeasedSqliteStorage, tmp_path: Path) -> None:
    storage.enqueue(b"task")
    storage.acknowledge(take(storage))

    def files() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}

    before = files()
    for _ in range(50):
        assert storage.claim(timeout=0) is None
        storage.keep()
        assert storage.read_schedule(NOON) == []
        assert storage.pop_data("missing") is EmptyData
    assert files() == before


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NORMAL or FULL, not 'OFF'"):
        LeasedSqliteStorage(path=tmp_path / "queue.db", synchronous="OFF")


@pytest.mark.parametrize(("setting", "level"), [("NORMAL", 1), ("FULL", 2)])
def test_the_setting_reaches_the_file(open_storage: OpenStorage, setting: str, level: int) -> None:
    storage = open_storage(synchronous=setting)
    assert storage._db.query("pragma synchronous") == [(level,)]
    assert storage._db.query("pragma journal_mode") == [("wal",)]
