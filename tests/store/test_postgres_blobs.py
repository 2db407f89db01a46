"""Blobs in Postgres: what was put comes back, once, whole, and until it is deleted."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator

import pytest

from appliance.contracts import NodeError
from appliance.store.postgres.blobs import PostgresBlobs
from appliance.store.postgres.connecting import connect
from tests.support.servers import free_port


@pytest.fixture
def blobs(database_url: str) -> Iterator[PostgresBlobs]:
    made = PostgresBlobs(database_url)
    yield made
    made.close()


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000], ids=["empty", "small", "pieces"])
def test_what_was_put_comes_back(blobs: PostgresBlobs, data: bytes) -> None:
    reference = blobs.put(data, "text/plain")
    assert reference == {"$blob": hashlib.sha256(data).hexdigest(), "size": len(data), "type": "text/plain"}
    assert blobs.get(reference) == data
    assert blobs.put(data) == {**reference, "type": "application/octet-stream"}
    ((digest, size, used),) = list(blobs)
    assert (digest, size) == (reference["$blob"], len(data)) and abs(used - time.time()) < 60


def test_what_must_not_be_kept_is_taken_out(blobs: PostgresBlobs) -> None:
    blobs.clean = lambda data: data.replace(b"secret", b"***")
    assert blobs.get(blobs.put(b"a secret")) == b"a ***"


def test_a_blob_that_is_gone_damaged_or_none(blobs: PostgresBlobs, database_url: str) -> None:
    reference = blobs.put(b"content" * 1000)
    with pytest.raises(NodeError, match="not a reference"):
        blobs.get({"$blob": "../etc/passwd"})
    with pytest.raises(NodeError, match="damaged"):
        blobs.get({**reference, "size": 3})
    with connect(database_url) as connection:
        connection.execute("UPDATE blob_piece SET data = 'other'")
    with pytest.raises(NodeError, match="damaged"):
        blobs.get(reference)
    assert blobs.delete(reference["$blob"])
    with pytest.raises(NodeError, match="gone") as caught:
        blobs.get(reference)
    assert not caught.value.retryable
    assert not blobs.delete(reference["$blob"]) and not blobs.delete("none") and not blobs.keep("none", 1)


def test_the_collection_spares_what_was_put_again(blobs: PostgresBlobs, database_url: str) -> None:
    old, again = blobs.put(b"old"), blobs.put(b"again")
    with connect(database_url) as connection:
        connection.execute("UPDATE blob SET used = 1000")
    assert blobs.keep(again["$blob"], 5) and not blobs.keep(again["$blob"], 6)
    assert blobs.delete(old["$blob"], unused_since=2000)
    assert not blobs.delete(again["$blob"], unused_since=2000)


def test_many_may_put_the_same_blob_at_once(blobs: PostgresBlobs) -> None:
    data = b"x" * 3_000_000
    threads = [threading.Thread(target=blobs.put, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.size for info in blobs] == [len(data)]
    assert blobs.get(blobs.put(data)) == data


def test_a_server_that_is_away_fails_the_step_and_not_the_engine(database_url: str) -> None:
    away = PostgresBlobs(f"{database_url.rpartition(':')[0]}:{free_port()}/x")
    with pytest.raises(NodeError, match="cannot be reached") as caught:
        away.put(b"x")
    assert caught.value.retryable
    assert "secret" not in str(caught.value)
