"""The pairings of a cluster in a real database, with several machines' folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from appliance.fleet.peers.book import IDENTITY, Known, PeerBook
from appliance.fleet.peers.hardware import is_same
from appliance.kernel.peering.shared_book import SharedBook, cluster_mark
from appliance.security.sealing import Cipher, NotSealed
from appliance.sharing.members import Members
from appliance.sharing.peers import PeerStore

KEY = b"k" * 32


def known(engine: str) -> Known:
    return Known(id=engine, name=f"the-{engine}", fingerprint="f" * 64, certificate="PEM", addresses=["10.0.0.1:5011"])


def shown(book: PeerBook) -> list[bytes]:
    return [(book.folder / name).read_bytes() for name in IDENTITY]


@pytest.fixture
def machine(database_url: str, tmp_path: Path) -> Iterator[Callable[..., SharedBook]]:
    """The book on a machine of the cluster."""
    with closing(Members(database_url)) as members:
        yield lambda name, key=KEY: SharedBook(tmp_path / name, PeerStore(members), Cipher(key))


def test_the_first_machine_brings_its_pairings_and_its_key(machine: Callable[..., SharedBook], tmp_path: Path) -> None:
    alone = PeerBook(tmp_path / "attic")
    alone.certificate("flowork me")
    alone.write(known("laptop"))
    before = shown(alone)
    attic, cellar = machine("attic"), machine("cellar")
    late = PeerBook(tmp_path / "shed")
    late.certificate("flowork me")
    late.write(known("stranger"))
    for book in (attic, cellar, machine("shed")):
        book.bring()
        assert shown(book) == before
        assert [one.id for one in book.all()] == ["laptop"], "what a later machine had does not count"


def test_what_one_writes_the_others_have_when_their_turn_comes(machine: Callable[..., SharedBook]) -> None:
    attic, cellar = machine("attic"), machine("cellar")
    attic.bring()
    cellar.bring()
    assert attic.all() == []
    assert attic.certificate("flowork me") == cellar.certificate("flowork me"), "made once"
    attic.write(known("laptop"))
    attic.write(known("desk"))
    attic.remove("desk")
    cellar.bring()
    assert cellar.all() == [known("laptop")]
    cellar.remove("laptop")
    attic.bring()
    assert attic.all() == []


def test_it_is_sealed(machine: Callable[..., SharedBook], database_url: str) -> None:
    attic = machine("attic")
    attic.certificate("flowork me")
    attic.write(known("laptop"))
    with closing(psycopg.connect(database_url, options="-c search_path=flowork")) as connection:
        kept = b"".join(bytes(row[0]) for row in connection.execute("SELECT value FROM flow_state").fetchall())
        assert b"PRIVATE" not in kept and b"10.0.0.1" not in kept
        # A row in the place of another opens no door.
        connection.execute("UPDATE flow_state SET key = 'peer desk' WHERE key = 'peer laptop'")
        connection.commit()
    with pytest.raises(NotSealed):
        machine("cellar").bring()
    with pytest.raises(NotSealed):
        machine("shed", b"x" * 32).bring()


def test_a_cluster_is_let_in_where_the_machine_was_known(machine: Callable[..., SharedBook]) -> None:
    mark = cluster_mark(KEY)
    assert is_same("214bf94f3a", mark), "the engine moves from one machine to a cluster"
    assert is_same(mark, cluster_mark(KEY)) and not is_same(mark, cluster_mark(b"x" * 32))
