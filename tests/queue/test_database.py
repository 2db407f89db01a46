"""Damaged, foreign, deleted, full and unwritable files."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from appliance.queue.errors import QueueError
from appliance.queue.storage import LeasedSqliteStorage
from tests.queue.conftest import OpenStorage
from tests.queue.support import PATIENCE

ROOT = Path(__file__).parents[2]


def damaged(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("queue.db.damaged-*[0-9]"))


@pytest.mark.parametrize("content", [b"this is no database\n" * 100, b"\x00" * 8192])
def test_a_file_that_is_no_database_is_moved_aside(
    storage: LeasedSqliteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "queue.db").write_bytes(content)
    storage.enqueue(b"task")
    assert storage.enqueued_items() == [b"task"]
    (aside,) = damaged(tmp_path)
    assert (tmp_path / aside).read_bytes() == content
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is damaged" in record.message
    assert aside in record.message


def break_in_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xde\xad\xbe\xef" * (path.stat().st_size // 4 - 1024))


def test_damage_that_shows_while_it_is_open_is_moved_aside_by_one_process(
    open_storage: OpenStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = open_storage()
    for number in range(600):
        writer.enqueue(b"%d" % number * 2000)
    writer.close()
    first, second = open_storage(), open_storage()
    assert first.queue_size() == second.queue_size() == 600
    first.enqueue(b"in the log")
    break_in_the_middle(tmp_path / "queue.db")
    assert first.enqueued_items() == []
    first.enqueue(b"new")
    assert second.enqueued_items() == [b"new"]
    second.enqueue(b"newer")
    assert first.enqueued_items() == [b"new", b"newer"]
    (aside,) = damaged(tmp_path)
    assert (tmp_path / f"{aside}-wal").exists(), "left where it was, it would be played into the new file"
    assert len(caplog.records) == 1


def test_who_meets_the_damage_second_leaves_the_new_file_alone(open_storage: OpenStorage, tmp_path: Path) -> None:
    first, second = open_storage(), open_storage()
    first.enqueue(b"old")
    assert second.queue_size() == 1
    for storage in (first, second):
        storage._db._replace("both were told so by SQLite at the same time")
        storage.enqueue(b"new")
    assert first.enqueued_items() == [b"new", b"new"]
    assert len(damaged(tmp_path)) == 1


def test_damage_that_sleeps_is_found_when_it_is_opened(storage: LeasedSqliteStorage, tmp_path: Path) -> None:
    for number in range(200):
        storage.enqueue(b"%d" % number * 200)
    storage.close()
    break_in_the_middle(tmp_path / "queue.db")
    storage.enqueue(b"new")
    assert storage.enqueued_items() == [b"new"]
    assert len(damaged(tmp_path)) == 1


@pytest.mark.parametrize("made_by", ["create table kv (queue text)", "pragma user_version = 99"])
def test_the_file_of_another_program_or_version_is_moved_aside(
    storage: LeasedSqliteStorage, tmp_path: Path, made_by: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        connection.execute(made_by)
    storage.enqueue(b"task")
    assert len(damaged(tmp_path)) == 1


def test_only_the_last_damaged_files_are_kept(storage: LeasedSqliteStorage, tmp_path: Path) -> None:
    for day in range(1, 6):
        (tmp_path / f"queue.db.damaged-2026110{day}T000000-1").touch()
        (tmp_path / f"queue.db.damaged-2026110{day}T000000-1-wal").touch()
    (tmp_path / "queue.db").write_bytes(b"garbage" * 1000)
    storage.enqueue(b"task")
    kept = damaged(tmp_path)
    assert kept[:2] == ["queue.db.damaged-20261104T000000-1", "queue.db.damaged-20261105T000000-1"]
    assert len(kept) == 3
    assert len(list(tmp_path.glob("queue.db.damaged-*-wal"))) == 2


def test_a_deleted_file_is_made_anew(open_storage: OpenStorage, tmp_path: Path) -> None:
    first, second = open_storage(), open_storage()
    first.enqueue(b"gone")
    assert second.queue_size() == 1
    for path in tmp_path.glob("queue.db*"):
        path.unlink()
    first.enqueue(b"new")
    assert second.enqueued_items() == [b"new"]


def test_the_data_folder_is_made(open_storage: OpenStorage, tmp_path: Path) -> None:
    storage = open_storage(path=tmp_path / "deep" / "down" / "queue.db")
    assert storage.claim(timeout=0) is None
    assert (tmp_path / "deep" / "down" / "queue.db.bell").is_fifo()


def test_a_folder_that_cannot_be_used_is_named(open_storage: OpenStorage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    storage = open_storage(path=tmp_path / "file" / "queue.db")
    with pytest.raises(QueueError, match=r"file/queue.db cannot be used: .*(Not a directory|File exists)"):
        storage.enqueue(b"task")


def test_a_full_file_is_said_and_nothing_is_half_done(open_storage: OpenStorage) -> None:
    storage = open_storage()
    storage.enqueue(b"small")
    (pages,) = storage._db.query("pragma page_count")[0]
    storage._db.query(f"pragma max_page_count = {pages}")
    with pytest.raises(QueueError, match="the disk is full; free some space"):
        storage.enqueue(b"large" * 10_000)
    assert storage.enqueued_items() == [b"small"]
    storage._db.query("pragma max_page_count = 1000000")
    storage.enqueue(b"large" * 10_000)
    assert storage.queue_size() == 2


def test_a_finished_task_is_acknowledged_when_the_disk_can_be_written_again(tmp_path: Path) -> None:
    # In a process of its own: the limit on the size of files holds for everything that a process writes.
    script = """
import resource, sys
from pathlib import Path
from appliance.queue.errors import QueueError
from appliance.queue.storage import LeasedSqliteStorage
path = Path(sys.argv[1]) / "queue.db"
storage = LeasedSqliteStorage("flowork", path=path)
storage.enqueue(b"task")
claim = storage.claim(timeout=0)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, unlimited[1]))
for attempt in (lambda: storage.acknowledge(claim), storage.keep, lambda: storage.enqueue(b"other")):
    try:
        attempt()
    except QueueError as exc:
        assert "the disk reports an error or is full" in str(exc), exc
    else:
        raise SystemExit("the limit does not hold")
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
storage.keep()
assert storage._db.query("select count(*) from task") == [(0,)]
assert not storage._held and not storage._done
storage.close()
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=PATIENCE)


def test_a_lock_that_is_never_given_back_is_said(open_storage: OpenStorage, tmp_path: Path) -> None:
    storage = open_storage()
    storage.enqueue(b"task")
    storage._db.query("pragma busy_timeout = 10")
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(QueueError, match="another process keeps it locked"):
            storage.enqueue(b"other")
        assert storage.enqueued_items() == [b"task"], "reading goes on"
    storage.enqueue(b"other")


def test_a_mistake_of_ours_is_not_taken_for_trouble_with_the_disk(storage: LeasedSqliteStorage) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        storage.enqueue(None)  # type: ignore[arg-type]
    assert storage.queue_size() == 0
