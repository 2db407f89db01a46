"""Kernels that share a journal in Postgres: unique events, leases, fencing, taking over; a server that goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from appliance.engine.states import RunState
from appliance.store.errors import EventTaken, LeaseLost
from appliance.store.journal import Batch, Lease
from appliance.store.postgres.connecting import connect
from appliance.store.postgres.journal import PostgresJournal
from appliance.store.shards import StoreFailure
from tests.support.shard_files import NOON, put, row

Make = Callable[..., PostgresJournal]


@pytest.fixture
def kernel(database_url: str) -> Iterator[Make]:
    """Makes journals of kernels by their writer's number."""
    with ExitStack() as stack:

        def make(writer: int, **options: bool) -> PostgresJournal:
            journal = PostgresJournal(database_url, writer=writer, sync=False, **options)
            stack.callback(journal.close)
            journal.open()
            return journal

        yield make


def with_key(journal: PostgresJournal, *keys: str) -> Batch:
    batch = Batch()
    for key in keys:
        batch.runs.append(row(journal.ids.next(NOON), RunState.QUEUED))
        batch.keys.append((key, batch.runs[-1].id))
    return batch


def test_one_event_has_one_run_whichever_kernel_was_first(kernel: Make) -> None:
    one, two = kernel(0), kernel(1)
    first, second = with_key(one, "a", "b"), with_key(two, "c", "b")
    one.commit(first)
    one.commit(first)  # the same again is no conflict
    with pytest.raises(EventTaken) as caught:
        two.commit(second)
    assert caught.value.taken == {second.runs[1].id: first.runs[1].id}
    assert two.load(second.runs[0].id) is None, "all of a batch or nothing"
    assert two.run_of_key("b") == first.runs[1].id
    assert two.run_of_key("c") is None
    put(two, NOON)  # and the connection can be used again


def test_kernels_that_accept_the_same_events_at_once_make_each_run_once(kernel: Make) -> None:
    keys = [f"k{n}" for n in range(30)]
    taken: list[dict[int, int]] = []

    def work(writer: int) -> None:
        journal = kernel(writer)
        for start in range(0, 30, 3):
            batch = with_key(journal, *(keys[start : start + 3] if writer % 2 else keys[start : start + 3][::-1]))
            while batch.runs:
                try:
                    journal.commit(batch)
                    break
                except EventTaken as exc:
                    taken.append(exc.taken)
                    batch.runs = [run for run in batch.runs if run.id not in exc.taken]
                    batch.keys = [(key, run) for key, run in batch.keys if run not in exc.taken]

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = kernel(9)
    runs = [reader.run_of_key(key) for key in keys]
    assert None not in runs and len(set(runs)) == 30
    under_way = [entry.id for writer in range(4) for entry, _ in kernel(writer).under_way()]
    assert sorted(under_way) == sorted(run for run in runs if run is not None)
    assert sum(len(found) for found in taken) == 4 * 30 - 30


def test_a_kernel_sees_its_own_runs_and_takes_up_those_of_nobody(kernel: Make) -> None:
    one, two, gateway = kernel(0), kernel(1), kernel(2, shared=True)
    mine, theirs = put(one, NOON, 2, RunState.WAITING), put(two, NOON, 2, RunState.WAITING)
    before = one.mark()
    free = put(gateway, NOON, 3, RunState.QUEUED)
    assert one.mark() != before
    assert [entry.id for entry, _ in one.under_way()] == sorted(mine + free)
    assert [entry.id for entry, _ in two.under_way()] == theirs


def lease(url: str, writer: int, epoch: int = 1) -> Lease:
    """Make a kernel the holder of a number, in place of whoever was."""
    with psycopg.connect(url) as connection:
        connection.execute("SET search_path = flowork")
        connection.execute("SELECT pg_advisory_xact_lock(1718185074, %s)", (writer,))
        connection.execute(
            "INSERT INTO kernel_lease (writer, epoch, until, machine, since) VALUES (%s, %s, now(), 'm', now()) "
            "ON CONFLICT (writer) DO UPDATE SET epoch = EXCLUDED.epoch",
            (writer, epoch),
        )
    return Lease(writer, epoch)


def test_a_kernel_that_was_believed_dead_never_commits_again(kernel: Make, database_url: str) -> None:
    journal = kernel(1)
    journal.fence = lease(database_url, 1)
    (run,) = put(journal, NOON, state=RunState.WAITING)
    lease(database_url, 1, epoch=2)
    for work in (lambda: put(journal, NOON), lambda: journal.set_letter(run, 1, "a", "b", 1)):
        with pytest.raises(LeaseLost, match="taken over from writer 1"):
            work()
    assert [entry.id for entry, _ in journal.under_way()] == [run], "reading goes on, and nothing was added"


def test_without_a_lease_nothing_is_written(kernel: Make) -> None:
    journal = kernel(1)
    journal.fence = Lease(1, 1)
    with pytest.raises(LeaseLost):
        put(journal, NOON)


def test_a_lease_does_not_change_hands_in_the_middle_of_a_commit(kernel: Make, database_url: str) -> None:
    lease(database_url, 1)
    done = threading.Event()
    with psycopg.connect(database_url) as commit:
        commit.execute("SET search_path = flowork")
        commit.execute("SELECT hold_lease(1::smallint, 1::bigint)")
        thread = threading.Thread(target=lambda: (lease(database_url, 1, epoch=2), done.set()))
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    assert done.is_set()


def test_a_connection_that_was_cut_is_made_again(kernel: Make, database_url: str) -> None:
    journal = kernel(0)
    (run,) = put(journal, NOON, state=RunState.WAITING)
    for use in (lambda: put(journal, NOON), lambda: journal.load(run), lambda: [journal.probe()]):
        _cut_all(database_url)
        assert use()


def test_a_server_that_is_away_fails_in_words_and_the_journal_comes_back(database_url: str) -> None:
    """The port of a server that is not there."""
    address = _away(database_url)
    journal = PostgresJournal(address, writer=0)
    for _ in range(2):
        with pytest.raises(StoreFailure, match="cannot be reached") as caught:
            journal.probe()
        assert "secret" not in str(caught.value)
    journal.close()


def test_a_day_that_retention_dropped_is_made_again(kernel: Make, database_url: str) -> None:
    journal = kernel(0)
    put(journal, NOON)
    from appliance.store.postgres.days import days, drop_day

    with connect(database_url) as connection:
        (day,) = days(connection)
        drop_day(connection, day)
        assert days(connection) == []
    (run,) = put(journal, NOON)
    assert journal.load(run) is not None


def _cut_all(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flowork' "
            "AND datname = current_database()"
        )


def _away(url: str) -> str:
    """The same database on a port where nothing listens."""
    from tests.support.servers import free_port

    head, _, name = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{free_port()}/{name}"
