"""Kernels that share a journal in Postgres: unique events, leases, fencing, taking over; a server that goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from appliance.engine.states import RunState
from appliance.store.errors import EventTaken, LeaseLost, StoreAway
from appliance.store.journal import Batch, Lease
from appliance.store.postgres.connecting import connect
from appliance.store.postgres.journal import PostgresJournal
from appliance.store.postgres.leases import Leases
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


def test_a_lease_is_one_kernels_until_it_ends(database_url: str) -> None:
    leases = Leases(database_url)
    mine = leases.acquire(3, "greenhouse", 60)
    assert mine == Lease(3, 1)
    assert leases.acquire(3, "shed", 60) is None
    assert leases.renew(mine, 0)
    theirs = leases.acquire(3, "shed", 60)
    assert theirs == Lease(3, 2)
    assert not leases.renew(mine, 60)
    leases.release(mine)  # is nobody's any more: no harm
    (held,) = leases.all()
    assert (held.writer, held.epoch, held.machine) == (3, 2, "shed")
    assert 50 < held.left <= 60
    leases.release(theirs)
    assert leases.all()[0].left <= 0


def test_a_kernel_that_was_believed_dead_never_commits_again(kernel: Make, database_url: str) -> None:
    leases = Leases(database_url)
    dead, heir = leases.acquire(1, "a", 0), leases.acquire(2, "b", 60)
    assert dead is not None and heir is not None
    one, two = kernel(1), kernel(2)
    one.fence, two.fence = dead, heir
    runs = put(one, NOON, 2, RunState.WAITING)  # its lease has ended, but nobody has taken it
    ended = put(one, NOON)
    assert leases.take_over(1, heir) == 2
    for work in (lambda: put(one, NOON), lambda: one.set_letter(runs[0], 1, "a", "b", 1)):
        with pytest.raises(LeaseLost):
            work()
    assert one.load(runs[0]) is not None, "reading goes on"
    assert [entry.id for entry, _ in two.under_way()] == runs
    assert list(one.under_way()) == []
    assert two.load(ended[0]) is not None
    put(two, NOON)


def test_runs_are_taken_from_the_dead_only(kernel: Make, database_url: str) -> None:
    leases = Leases(database_url)
    alive, other = leases.acquire(1, "a", 60), leases.acquire(2, "b", 60)
    assert alive is not None and other is not None
    put(kernel(1), NOON, 2, RunState.WAITING)
    assert leases.take_over(1, other) == 0
    leases.release(alive)
    assert leases.take_over(1, Lease(2, 99)) == 0, "who has lost its own lease takes nothing"
    assert leases.take_over(1, other) == 2


def test_a_takeover_waits_for_a_commit_that_is_under_way(kernel: Make, database_url: str) -> None:
    leases = Leases(database_url)
    dead, heir = leases.acquire(1, "a", 0), leases.acquire(2, "b", 60)
    assert dead is not None and heir is not None
    done = threading.Event()
    with psycopg.connect(database_url) as commit:
        commit.execute("SET search_path = flowork")
        commit.execute("SELECT hold_lease(1::smallint, 1::bigint)")
        thread = threading.Thread(target=lambda: (leases.take_over(1, heir), done.set()))
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
    with pytest.raises(StoreAway):
        Leases(address).all()


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
