"""Who of a cluster has the links to peers, and the numbers of events, in a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import msgspec
import psycopg
import pytest

from appliance.sharing.members import KERNEL, Members
from appliance.sharing.peers import PeerStore
from appliance.store.errors import LeaseLost
from appliance.store.journal import PEERS, Lease

OUTBOX = -(1 << 62)


@pytest.fixture
def make_members(database_url: str) -> Iterator[Callable[[], Members]]:
    with ExitStack() as stack:

        def make() -> Members:
            members = Members(database_url)
            stack.callback(members.close)
            return members

        yield make


@pytest.fixture
def sql(database_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with closing(psycopg.connect(database_url, autocommit=True, options="-c search_path=flowork")) as connection:
        yield connection


@pytest.fixture
def two(make_members: Callable[[], Members]) -> tuple[tuple[PeerStore, Lease], tuple[PeerStore, Lease]]:
    """Two kernels."""
    made = []
    for name in ("attic", "cellar"):
        members = make_members()
        made.append((PeerStore(members), members.join(KERNEL, name, name)))
    return made[0], made[1]


def put(sql: psycopg.Connection[tuple[object, ...]], key: str, value: object) -> None:
    sql.execute("INSERT INTO flow_state VALUES (%s, %s, %s, 1)", (OUTBOX, key, msgspec.msgpack.encode(value)))


def test_one_kernel_has_the_links_as_long_as_it_lives(
    two: tuple[tuple[PeerStore, Lease], tuple[PeerStore, Lease]], sql: psycopg.Connection[tuple[object, ...]]
) -> None:
    (attic, first), (cellar, second) = two
    assert attic.holder() is None
    assert attic.take(first) and attic.take(first), "once more is fine"
    assert not cellar.take(second)
    assert cellar.holder() == first
    sql.execute("UPDATE kernel_lease SET until = now() - interval '1 second' WHERE writer = %s", (first.writer,))
    assert cellar.take(second)
    assert attic.holder() == second
    with pytest.raises(LeaseLost):
        attic.take(Lease(first.writer, first.epoch + 1))


def test_who_left_has_them_no_more(
    two: tuple[tuple[PeerStore, Lease], tuple[PeerStore, Lease]], make_members: Callable[[], Members]
) -> None:
    (attic, first), (cellar, second) = two
    assert attic.take(first)
    make_members().leave(first)
    assert cellar.take(second)


def test_events_are_numbered_by_the_kernel_with_the_links_alone(
    two: tuple[tuple[PeerStore, Lease], tuple[PeerStore, Lease]], sql: psycopg.Connection[tuple[object, ...]]
) -> None:
    (attic, first), (cellar, second) = two
    for key, topic in (("@new 2", "b"), ("@new 1", "a")):
        put(sql, key, {"peer": "laptop", "topic": topic})
    assert attic.take(first)
    assert cellar.number(second, OUTBOX, "theirs") == ({}, [])
    heads, made = attic.number(first, OUTBOX, "ours")
    assert heads == {"@name": "ours", "@seq": 2}
    assert [(one.peer, one.key[-3:], one.value) for one in made] == [
        ("laptop", "001", {"topic": "a"}),
        ("laptop", "002", {"topic": "b"}),
    ]
    assert attic.number(first, OUTBOX, "ours") == ({}, [])
    put(sql, "@new 3", {"peer": "desk", "topic": "c"})
    sql.execute("UPDATE kernel_lease SET ended = now() WHERE writer = %s", (first.writer,))
    assert cellar.take(second)
    heads, made = cellar.number(second, OUTBOX, "theirs")
    assert heads == {"@name": "ours", "@seq": 3}, "the peers see one sender"
    assert cellar.events(OUTBOX) == {
        "@name": "ours",
        "@seq": 3,
        f"laptop {1:015d}": {"topic": "a"},
        f"laptop {2:015d}": {"topic": "b"},
        f"desk {3:015d}": {"topic": "c"},
    }


def test_what_is_kept_of_the_first_counts(two: tuple[tuple[PeerStore, Lease], tuple[PeerStore, Lease]]) -> None:
    (attic, first), (cellar, _) = two
    assert attic.put_first("identity", {"identity": b"key", "peer a": b"1"})
    assert not cellar.put_first("identity", {"identity": b"other", "peer b": b"2"})
    cellar.put("peer c", b"3")
    attic.take(first)
    assert cellar.values() == {"identity": b"key", "peer a": b"1", "peer c": b"3"}
    attic.drop("peer a")
    attic.drop("peer a")
    assert cellar.values().keys() == {"identity", "peer c"}
    assert PEERS < OUTBOX
