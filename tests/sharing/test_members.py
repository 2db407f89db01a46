"""Numbers, leases and homes of flows, in a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest

from appliance.sharing.members import FENCES, GATEWAY, KERNEL, Crowded, Member, Members
from appliance.store.errors import LeaseLost
from appliance.store.journal import Batch, Lease, RunRow
from appliance.store.postgres.journal import PostgresJournal
from appliance.store.runids import RunIds

MakeMembers = Callable[[], Members]


@pytest.fixture
def make_members(database_url: str) -> Iterator[MakeMembers]:
    with ExitStack() as stack:

        def make() -> Members:
            members = Members(database_url)
            stack.callback(members.close)
            return members

        yield make


@pytest.fixture
def members(make_members: MakeMembers) -> Members:
    return make_members()


@pytest.fixture
def sql(database_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with closing(psycopg.connect(database_url, autocommit=True, options="-c search_path=flowork")) as connection:
        yield connection


def over(sql: psycopg.Connection[tuple[object, ...]], writer: int) -> None:
    """Let a lease run out."""
    sql.execute("UPDATE kernel_lease SET until = now() - interval '1 second' WHERE writer = %s", (writer,))


def member(members: Members, writer: int) -> Member:
    return next(one for one in members.all() if one.writer == writer)


def everything(flows: set[int]) -> set[int]:
    return flows


def put_run(url: str, lease: Lease, flow: int, at: float = 1.8e9) -> int:
    """Commit a run under way, as a kernel does."""
    journal = PostgresJournal(url, writer=lease.writer)
    journal.fence = lease
    with closing(journal):
        number = RunIds(lease.writer).next(at)
        batch = Batch()
        batch.runs.append(RunRow(number, flow, 1, "", 1, int(at * 1e6), None, "t", b"", None, None, None, 0, b""))
        journal.commit(batch)
        return number


def test_everybody_gets_a_number_and_keeps_it(members: Members) -> None:
    first = members.join(KERNEL, "attic", "a")
    second = members.join(KERNEL, "cellar", "b")
    gateway = members.join(GATEWAY, "attic", "a")
    assert [first.writer, second.writer, gateway.writer] == [0, 1, 2]
    assert members.join(KERNEL, "attic", "a") == Lease(0, 2)
    found = members.all()
    assert [(one.machine, one.role, one.alive) for one in found] == [
        ("attic", KERNEL, True),
        ("cellar", KERNEL, True),
        ("attic", GATEWAY, True),
    ]
    assert all(8 < one.left <= 10 for one in found)
    assert found[0].box != member(members, 1).box


def test_two_that_join_at_once_get_two_numbers(make_members: MakeMembers) -> None:
    found: list[int] = []

    def join(place: str) -> None:
        found.append(make_members().join(KERNEL, "box", place).writer)

    threads = [threading.Thread(target=join, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(6))


def test_a_life_before_can_neither_renew_nor_claim(members: Members) -> None:
    before = members.join(KERNEL, "attic", "a")
    members.claim(before, [1, 2])
    now = members.join(KERNEL, "attic", "a")
    with pytest.raises(LeaseLost):
        members.renew(before)
    with pytest.raises(LeaseLost):
        members.claim(before, [3])
    members.renew(now)
    assert members.homes_of(now.writer) == {1, 2}


def test_numbers_run_out_and_those_of_the_long_gone_come_back(
    members: Members, sql: psycopg.Connection[tuple[object, ...]]
) -> None:
    leases = [members.join(GATEWAY, "box", str(number)) for number in range(64)]
    with pytest.raises(Crowded, match="64"):
        members.join(GATEWAY, "box", "one more")
    members.claim(leases[3], [7])
    sql.execute("UPDATE kernel_lease SET until = now() - interval '1 hour' WHERE writer IN (3, 5)")
    assert members.join(GATEWAY, "box", "one more") == Lease(5, 2)
    with pytest.raises(Crowded):
        members.join(GATEWAY, "box", "and another")


def test_a_flow_has_one_home(members: Members) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    assert members.claim(first, [1, 2]) == {1, 2}
    assert members.claim(second, [2, 3]) == {3}
    assert members.homes() == {1: 0, 2: 0, 3: 1}


def test_the_living_are_not_taken_over(members: Members, database_url: str) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    members.claim(first, [1])
    assert members.take_over(second, member(members, 0), everything) == set()
    put_run(database_url, first, 1)
    assert members.homes() == {1: 0}


def test_the_dead_are_taken_over_with_their_runs_and_commit_nothing_more(
    members: Members, sql: psycopg.Connection[tuple[object, ...]], database_url: str
) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    members.claim(first, [1, 2, 3])
    run = put_run(database_url, first, 1)
    lonely = put_run(database_url, first, 9, 1.8e9 + 1)
    over(sql, 0)
    assert members.left_behind([0]) == {0}
    dead = member(members, 0)
    assert members.take_over(second, dead, lambda flows: flows - {2}) == {1, 3, 9}
    assert members.homes() == {1: 1, 2: 0, 3: 1, 9: 1}
    owners = sql.execute("SELECT id, owner FROM run ORDER BY id").fetchall()
    assert owners == [(run, 1), (lonely, 1)]
    with pytest.raises(LeaseLost):
        put_run(database_url, first, 1, 1.8e9 + 2)
    with pytest.raises(LeaseLost):
        members.renew(first)
    # What the first one to come left is for the next.
    assert members.take_over(second, member(members, 0), everything) == {2}
    assert members.left_behind([0]) == set()


def test_who_left_is_taken_over_at_once(members: Members) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    members.claim(first, [1])
    members.leave(first)
    assert not member(members, 0).alive
    assert members.take_over(second, member(members, 0), everything) == {1}
    again = members.join(KERNEL, "attic", "a")
    assert member(members, 0).alive
    members.renew(again)


def test_a_commit_that_hangs_in_the_middle_is_cut_off(
    members: Members, sql: psycopg.Connection[tuple[object, ...]], database_url: str
) -> None:
    """Its process was frozen between two statements: its session, and with it the lock, would live on."""
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    members.claim(first, [1])
    frozen = psycopg.connect(database_url, options="-c search_path=flowork")
    frozen.execute("SELECT hold_lease(%s::smallint, %s::bigint)", first)
    held = sql.execute("SELECT count(*) FROM pg_locks WHERE classid = %s AND objid = 0", (FENCES,)).fetchone()
    assert held == (1,)
    over(sql, 0)
    assert members.take_over(second, member(members, 0), everything) == {1}
    with pytest.raises(psycopg.OperationalError):
        frozen.execute("SELECT 1")
    frozen.close()


def test_flows_are_handed_over_with_their_runs(members: Members, database_url: str) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    members.claim(first, [1, 2])
    run = put_run(database_url, first, 1)
    assert members.hand_over(first, member(members, 1), {1})
    assert members.homes() == {1: 1, 2: 0}
    journal = PostgresJournal(database_url, writer=1)
    journal.fence = second
    with closing(journal):
        assert [row.id for row, _ in journal.under_way()] == [run]


def test_nothing_is_handed_to_the_dead(members: Members, sql: psycopg.Connection[tuple[object, ...]]) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    members.claim(first, [1])
    to = member(members, second.writer)
    over(sql, 1)
    assert not members.hand_over(first, to, {1})
    assert members.homes() == {1: 0}


def test_runs_that_nobody_owns_go_to_the_home_of_their_flow(members: Members, database_url: str) -> None:
    first, second = members.join(KERNEL, "attic", "a"), members.join(KERNEL, "cellar", "b")
    gateway = members.join(GATEWAY, "attic", "a")
    members.claim(first, [1])
    members.claim(second, [2])
    shared = PostgresJournal(database_url, writer=gateway.writer, shared=True)
    shared.fence = gateway
    with closing(shared):
        batch = Batch()
        for number, flow in enumerate((1, 2)):
            batch.runs.append(RunRow(10**18 + number, flow, 1, "", 0, 1, None, "t", b"", None, None, None, 0, b""))
        shared.commit(batch)
    for lease, flow in ((second, 2), (first, 1)):
        journal = PostgresJournal(database_url, writer=lease.writer)
        journal.fence = lease
        with closing(journal):
            assert [row.flow for row, _ in journal.under_way()] == [flow]


def test_the_keys_of_a_cluster_are_those_of_the_first(members: Members) -> None:
    assert members.proof("mine") == "mine"
    assert members.proof("other") == "mine"
