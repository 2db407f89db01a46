"""Blobs: stored once, whole or not at all, and damage is noticed."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from appliance.contracts import NodeError
from appliance.kernel.blobs import FileBlobs


@pytest.fixture
def store(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path)


def path_of(store_root: Path, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return store_root / "blobs" / digest[:2] / digest


@pytest.mark.parametrize("data", [b"", b"picture", os.urandom(3_000_000)])
def test_what_was_put_comes_back(store: FileBlobs, tmp_path: Path, data: bytes) -> None:
    reference = store.put(data, "image/png")
    digest = hashlib.sha256(data).hexdigest()
    assert reference == {"$blob": digest, "size": len(data), "type": "image/png"}
    assert store.get(reference) == data
    assert path_of(tmp_path, data).read_bytes() == data


def test_the_same_content_is_stored_once(store: FileBlobs, tmp_path: Path) -> None:
    assert store.put(b"same")["$blob"] == store.put(b"same")["$blob"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [store.put(b"same")["$blob"]]


def test_file_and_folder_are_synced_before_put_returns(
    store: FileBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", record)
    store.put(b"x")
    blob = path_of(tmp_path, b"x")
    assert synced[0] == str(blob.parent.parent)
    assert synced[1].endswith(".tmp")
    assert synced[2] == str(blob.parent)
    synced.clear()
    FileBlobs(tmp_path, sync=False).put(b"y")
    assert synced == []


@pytest.mark.parametrize("damage", [b"", b"pic", b"pictures", b"pixture"])
def test_a_damaged_blob_is_noticed_and_mended_by_the_next_put(store: FileBlobs, tmp_path: Path, damage: bytes) -> None:
    reference = store.put(b"picture")
    path_of(tmp_path, b"picture").write_bytes(damage)
    with pytest.raises(NodeError, match="damaged") as caught:
        store.get(reference)
    assert not caught.value.retryable
    store.put(b"picture")
    assert store.get(reference) == b"picture"


def test_a_reference_with_another_size_is_damaged(store: FileBlobs) -> None:
    reference = store.put(b"picture") | {"size": 6}
    with pytest.raises(NodeError, match="damaged"):
        store.get(reference)


@pytest.mark.parametrize("digest", [None, 5, "", "../../keys/owner", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_reference_is_refused(store: FileBlobs, digest: object) -> None:
    with pytest.raises(NodeError, match="not a reference"):
        store.get({"$blob": digest})


def test_a_deleted_blob_is_gone_for_good(store: FileBlobs) -> None:
    reference = store.put(b"picture")
    assert store.delete(reference["$blob"])
    assert not store.delete(reference["$blob"])
    with pytest.raises(NodeError, match="gone") as caught:
        store.get(reference)
    assert not caught.value.retryable


def test_collection_sees_all_blobs_and_spares_those_put_again(store: FileBlobs, tmp_path: Path) -> None:
    old, again = store.put(b"old")["$blob"], store.put(b"again")["$blob"]
    for data in (b"old", b"again"):
        os.utime(path_of(tmp_path, data), (1000, 1000))
    assert {info.digest: (info.size, info.used) for info in store} == {old: (3, 1000), again: (5, 1000)}
    store.put(b"again")
    assert store.delete(old, unused_since=2000)
    assert not store.delete(again, unused_since=2000)
    assert [info.digest for info in store] == [again]


def test_leftovers_of_a_power_cut_are_no_blobs_and_are_cleared(store: FileBlobs, tmp_path: Path) -> None:
    reference = store.put(b"whole")
    leftover = path_of(tmp_path, b"whole").with_name("0123.tmp")
    leftover.write_bytes(b"hal")
    os.utime(leftover, (1000, 1000))
    assert [info.digest for info in store] == [reference["$blob"]]
    assert store.clear_leftovers(before=1000) == 0
    assert store.clear_leftovers(before=1001) == 1
    assert not leftover.exists()
    assert store.get(reference) == b"whole"


def test_an_empty_engine_has_no_blobs(store: FileBlobs) -> None:
    assert list(store) == []
    assert store.clear_leftovers(before=1e12) == 0


def test_a_full_disk_leaves_nothing_behind_and_may_be_retried(
    store: FileBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NodeError, match="No space left") as caught:
        store.put(b"picture")
    assert caught.value.retryable
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_many_threads_may_put_the_same_blob(store: FileBlobs) -> None:
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            start.wait(10)
            for number in range(20):
                data = b"%d" % number
                assert store.get(store.put(data)) == data
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(store)) == 20
