"""Backups of a running engine: complete, consistent, verified; nothing is left behind where one fails."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store import backup_writer
from appliance.store.backup import make_backup, restore_backup
from appliance.store.errors import Conflict, StoreBusy, StoreCorrupt, StoreError
from appliance.store.journal import StateOp
from appliance.store.metadata import Store, open_store
from appliance.store.opening import RESTORING
from appliance.store.sqlite_file import backup_database, check_database
from tests.store.stores import DAY, Clock, body, child, write_shard

pytestmark = pytest.mark.files_only


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".db"
    }


def test_an_engine_comes_back_from_its_backup(engine: Path, store: Store, tmp_path: Path) -> None:
    target, restored = tmp_path / "b.tar.gz", tmp_path / "restored"
    seen: list[tuple[int, int]] = []
    manifest = make_backup(engine, target, lambda done, total, name: seen.append((done, total)))
    assert target.stat().st_mode & 0o777 == 0o600
    assert manifest.left_out == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FloworkData", "b.tar.gz"]
    assert seen == sorted(seen)
    assert seen[-1][0] <= seen[-1][1]
    assert restore_backup(target, restored) == manifest
    assert content(restored) == {
        name: data
        for name, data in content(engine).items()
        if name.split("/")[0] in ("keys", "blobs", "files", "packages")
    }
    assert (restored / "keys/owner.key").stat().st_mode & 0o777 == 0o600
    assert (restored / "files/deep/run.sh").stat().st_mode & 0o777 == 0o700
    assert not (restored / "models").exists()
    assert not (restored / RESTORING).exists()
    copy = open_store(restored, environ={})
    assert copy.report.state == "opened"
    assert copy.flows.live() == store.flows.live()
    copy.close()
    with closing(sqlite3.connect(restored / "runs" / DAY)) as shard:
        assert shard.execute("SELECT count(*) FROM run").fetchone() == (100,)


def test_what_flows_remember_comes_along(engine: Path, tmp_path: Path) -> None:
    memory = sqlite3.connect(engine / "memory.db")
    memory.executescript(
        "PRAGMA journal_mode = WAL; CREATE VIRTUAL TABLE word USING fts5 (text); INSERT INTO word VALUES ('pump');"
    )
    make_backup(engine, tmp_path / "b.tar.gz")  # while it is open, and most of it is in its WAL
    memory.close()
    restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")
    with closing(sqlite3.connect(tmp_path / "restored" / "memory.db")) as copy:
        assert copy.execute("SELECT text FROM word WHERE word MATCH 'pump'").fetchall() == [("pump",)]


def test_a_backup_of_a_busy_engine_is_consistent(engine: Path, store: Store, tmp_path: Path) -> None:
    """Versions that runs name are in it, and state changes that its database lacks are in the shards."""
    num, stop = store.flows.get("f").num, threading.Event()
    store.keep_good_copy(every=0)

    def work() -> None:
        shard = sqlite3.connect(engine / "runs" / DAY, isolation_level=None)
        shard.execute("CREATE TABLE used (version INTEGER, flow INTEGER)")
        shard.execute("CREATE TABLE op (ver INTEGER PRIMARY KEY)")
        number = 1
        while not stop.is_set():
            version = store.flows.save("f", "default", body(n=number), "a", base=number)
            flow = store.flows.save(None, "default", body(f"new {number}"), "a").flow
            shard.execute("INSERT INTO used VALUES (?, ?)", (version.id, flow))
            shard.execute("INSERT INTO op VALUES (?)", (number,))
            store.values.apply_state([StateOp(number, num, "k", b"%d" % number)], number)
            store.keep_good_copy(every=0)
            shard.execute("DELETE FROM op WHERE ver <= ?", (store.values.droppable(),))
            number += 1
        shard.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for index in range(5):
            make_backup(engine, tmp_path / f"{index}.tar.gz")
    finally:
        stop.set()
        thread.join()
    for index in range(5):
        restored = tmp_path / str(index)
        restore_backup(tmp_path / f"{index}.tar.gz", restored)
        copy = open_store(restored, environ={})
        with closing(sqlite3.connect(restored / "runs" / DAY)) as shard:
            for version, flow in shard.execute("SELECT version, flow FROM used"):
                assert copy.flows.version(version).flow == num
                assert copy.flows.by_num(flow).newest == 1
            ops = {ver for (ver,) in shard.execute("SELECT ver FROM op")}
            highest = shard.execute("SELECT count(*) FROM used").fetchone()[0]
        missing = set(range(copy.values.state_version() + 1, highest)) - ops
        assert not missing
        copy.close()


def test_what_happened_meanwhile_is_carried_into_the_copy(
    engine: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the database's copy and the shards': a version, a deleted flow, its id taken by another."""
    copied: Callable[[Path, Path], str] = backup_writer._copy_shard
    store.flows.save("gone", "default", body("gone"), "a")
    store.flows.deploy("gone", 1, "a")

    def meanwhile(shard: Path, copy: Path) -> str:
        store.flows.save("f", "default", body(nodes=[]), "a", base=1)
        store.flows.delete("gone", "a")
        store.flows.save("gone", "default", body("another"), "a")
        store.flows.deploy("gone", 1, "a")
        return copied(shard, copy)

    monkeypatch.setattr(backup_writer, "_copy_shard", meanwhile)
    make_backup(engine, tmp_path / "b.tar.gz")
    restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")
    copy = open_store(tmp_path / "restored", environ={})
    assert copy.flows.get("f").newest == 2
    assert copy.flows.get("gone").name == "another"
    assert copy.flows.get("gone").live_number == 1
    with pytest.raises(Conflict):
        copy.flows.save("f", "default", body(edges=[]), "a", base=1)
    copy.close()


def test_what_cannot_be_taken_along_is_named(engine: Path, tmp_path: Path) -> None:
    (engine / "runs" / "2027-01-14.db").write_bytes(b"SQLite format 3\x00" + b"junk" * 1000)
    (engine / "files" / "link").symlink_to("/etc/passwd")
    (engine / "files" / "linked").symlink_to("/etc")
    os.mkfifo(engine / "files" / "pipe")
    Path(os.fsdecode(os.fsencode(engine / "files") + b"/\xff")).write_bytes(b"x")
    manifest = make_backup(engine, tmp_path / "b.tar.gz")
    assert sorted(line.split(":")[0] for line in manifest.left_out) == [
        "'files/\\udcff'",
        "'files/link'",
        "'files/linked'",
        "'files/pipe'",
        "'runs/2027-01-14.db'",
    ]
    restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")
    assert (tmp_path / "restored/files/report ü.txt").exists()


def test_hard_links_are_both_kept(engine: Path, tmp_path: Path) -> None:
    os.link(engine / "blobs/ab/abcd", engine / "blobs/ab/again")
    make_backup(engine, tmp_path / "b.tar.gz")
    restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")
    assert (tmp_path / "restored/blobs/ab/again").read_bytes() == b"\x00blob" * 1000


def test_a_backup_never_overwrites_and_needs_an_engine(engine: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="exists already"):
        make_backup(engine, target)
    assert target.read_bytes() == b"precious"
    with pytest.raises(StoreError, match="no engine"):
        make_backup(tmp_path / "nothing", tmp_path / "c.tar.gz")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreError, match="No such file"):
        make_backup(engine, tmp_path / "nowhere" / "c.tar.gz")


def test_one_backup_at_a_time(engine: Path, tmp_path: Path) -> None:
    inner: list[StoreBusy] = []

    def again(done: int, total: int, name: str) -> None:
        if not inner:
            with pytest.raises(StoreBusy) as caught:
                make_backup(engine, tmp_path / "c.tar.gz")
            inner.append(caught.value)

    make_backup(engine, tmp_path / "b.tar.gz", again)
    assert inner
    assert not (tmp_path / "c.tar.gz").exists()


def test_a_backup_that_is_ended_leaves_nothing_behind(engine: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_backup(engine, tmp_path / "b.tar.gz", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["FloworkData"]
    make_backup(engine, tmp_path / "b.tar.gz")


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from appliance.store.backup import make_backup, restore_backup
from appliance.store.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try:
    {"make": make_backup, "restore": restore_backup}[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
except StoreError as exc:
    print(exc.id, len(list(Path(sys.argv[5]).iterdir())))
"""


def test_a_full_target_disk_is_told_and_cleaned_up(engine: Path, tmp_path: Path) -> None:
    (engine / "blobs/ab/random").write_bytes(os.urandom(3_000_000))
    usb, target = tmp_path / "usb", tmp_path / "b.tar.gz"
    usb.mkdir()
    process = child(_LIMITED, 1_000_000, "make", engine, usb / "b.tar.gz", usb)
    assert process.communicate(timeout=60) == ("disk-full 0\n", "")
    make_backup(engine, target)
    process = child(_LIMITED, 1_000_000, "restore", target, tmp_path / "restored", tmp_path / "restored")
    assert process.communicate(timeout=60) == ("disk-full 0\n", "")


def test_a_copy_is_of_one_moment_while_others_write(tmp_path: Path) -> None:
    path, stop = tmp_path / "a.db", threading.Event()
    write_shard(path, rows=4000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE pair (a INTEGER, b INTEGER)")
        connection.execute("INSERT INTO pair VALUES (0, 0)")

    def work() -> None:
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            while not stop.is_set():
                connection.execute("UPDATE pair SET a = a + 1, b = b + 1")

    thread = threading.Thread(target=work)
    thread.start()
    steps: list[tuple[int, int]] = []
    try:
        backup_database(path, tmp_path / "copy.db", lambda done, total: steps.append((done, total)))
    finally:
        stop.set()
        thread.join()
    assert check_database(tmp_path / "copy.db") is None
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)  # it never began again
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT a = b FROM pair").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM run").fetchone() == (4000,)
    assert sorted(file.name for file in tmp_path.iterdir() if "copy" in file.name) == ["copy.db"]


def test_a_damaged_source_gives_no_copy(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreCorrupt):
        backup_database(tmp_path / "a.db", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
