"""The open database: transactions, other threads and processes, kill -9, a full or read-only disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store.database import Database
from appliance.store.errors import StoreBusy, StoreError, StoreFull
from appliance.store.metadata import Store, open_store
from appliance.store.opening import DATABASE, LOCK
from appliance.store.sqlite_file import check_database
from appliance.store.tables import NOTE
from tests.store.stores import body, child, here, open_database

ROW = {"name": "n", "value": "1"}


@pytest.fixture
def db(store: Store, data: Path) -> Iterator[Database]:
    opened = open_database(data, busy=0.05)
    yield opened
    opened.close()


def notes(db: Database) -> dict[str, str]:
    return {row["name"]: row["value"] for row in db.all(NOTE.select()) if row["name"] != "good_copy"}


def test_a_transaction_is_all_or_nothing(db: Database) -> None:
    with pytest.raises(KeyError), db.write():
        db.run(NOTE.insert(ROW))
        assert notes(db) == {"n": "1"}
        raise KeyError("x")
    assert notes(db) == {}
    with db.write():
        db.run(NOTE.insert(ROW))
    assert notes(db) == {"n": "1"}


def test_a_transaction_inside_another_can_fail_alone(db: Database) -> None:
    with db.write():
        db.run(NOTE.insert(ROW))
        with pytest.raises(KeyError), db.write():
            db.run(NOTE.insert({"name": "m", "value": "2"}))
            raise KeyError("x")
        with db.write():
            db.run(NOTE.insert({"name": "o", "value": "3"}))
    assert notes(db) == {"n": "1", "o": "3"}


def test_what_is_not_committed_is_seen_by_nobody_else(db: Database, store: Store) -> None:
    seen: list[dict[str, str]] = []
    with db.write():
        db.run(NOTE.insert(ROW))
        thread = threading.Thread(target=lambda: seen.append(notes(db)))
        thread.start()
        thread.join()
    assert seen == [{}]


def test_a_write_outside_a_transaction_is_a_mistake(db: Database) -> None:
    with pytest.raises(RuntimeError, match="write"):
        db.run(NOTE.insert(ROW))


def test_a_broken_constraint_rolls_back(db: Database) -> None:
    with pytest.raises(StoreError, match=r"unique|UNIQUE"), db.write():
        db.run(NOTE.insert({"name": "m", "value": "2"}))
        db.run(NOTE.insert(ROW))
        db.run(NOTE.insert(ROW))
    assert notes(db) == {}
    with db.write():
        db.run(NOTE.insert(ROW))


def test_the_lock_of_another_process_is_waited_for_then_told(db: Database, data: Path) -> None:
    with closing(open_database(data)) as other, other.write():
        with pytest.raises(StoreBusy, match="another"), db.write():
            pass
        assert notes(db) == {}  # reading goes on
    with db.write():
        db.run(NOTE.insert(ROW))


def test_many_threads_write_and_read(db: Database) -> None:
    def work(start: int) -> None:
        for number in range(start, start + 20):
            with db.write():
                db.run(NOTE.insert({"name": str(number), "value": "x"}))
            assert str(number) in notes(db)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 100, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(notes(db)) == 100


def test_closing_twice_is_fine_and_use_opens_again(db: Database) -> None:
    db.close()
    db.close()
    assert notes(db) == {}


@pytest.mark.files_only
def test_a_file_that_is_gone_is_an_error_and_not_a_new_one(db: Database, data: Path) -> None:
    for file in data.glob(DATABASE + "*"):
        file.unlink()
    with pytest.raises(StoreError):
        notes(db)
    assert not (data / DATABASE).exists()


def test_values_that_no_database_can_hold(place: str, db: Database) -> None:
    for value in ("\ud800", 2**70 if place == "files" else "nul\x00"):
        with pytest.raises(StoreError, match="cannot be stored"), db.write():
            db.run(NOTE.insert({"name": "n", "value": value}))
    with db.write():
        db.run(NOTE.insert(ROW))
    assert notes(db) == {"n": "1"}


def test_a_forked_child_uses_connections_of_its_own(store: Store) -> None:
    store.flows.save("f", "default", body(), "a")
    pid = os.fork()
    if pid == 0:
        try:
            store.flows.deploy("f", 1, "child")
            os._exit(0 if store.flows.get("f").live_number == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [d.who for d in store.flows.deployments("f")] == ["child"]
    store.flows.undeploy("f", "parent")
    assert store.flows.get("f").live is None


@pytest.mark.files_only
def test_a_disk_that_is_full_is_told_and_reading_goes_on(store: Store, data: Path) -> None:
    store.flows.save("f", "default", body(), "a")
    with closing(sqlite3.connect(data / DATABASE)) as other:
        pages = other.execute("PRAGMA page_count").fetchone()[0]
    store._db._writer.execute_sql(f"PRAGMA max_page_count={pages}")
    big = body(notes="x" * 1_000_000)
    with pytest.raises(StoreFull, match="free some space"):
        store.flows.save("f", "default", big, "a", base=1)
    assert store.flows.get("f").newest == 1
    store._db._writer.execute_sql("PRAGMA max_page_count=1000000")
    assert store.flows.save("f", "default", big, "a", base=1).number == 2


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from appliance.store.errors import StoreError
from appliance.store.metadata import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    store.flows.save("f", "default", {"name": "x", "notes": "x" * 1_000_000}, "a", base=1)
except StoreError as exc:
    print(type(exc).__name__, store.flows.get("f").newest)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.flows.save("f", "default", {"name": "x", "notes": "x" * 1_000_000}, "a", base=1).number)
store.close()
"""


@pytest.mark.files_only
def test_a_write_that_the_system_refuses_loses_nothing(store: Store, data: Path) -> None:
    store.flows.save("f", "default", body(), "a")
    process = child(_LIMITED, data)
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert out.split() == ["StoreError", "1", "2"]


_WRITER = """
import sys
from pathlib import Path
from appliance.store.metadata import open_store
store = open_store(Path(sys.argv[1]))
number = store.flows.get("f").newest
print(number, flush=True)
while True:
    with store.atomically():
        store.flows.save("f", "default", {"name": "x", "n": number, "pad": "y" * 20_000}, "a", base=number)
        store.flows.deploy("f", number + 1, "a")
    number += 1
    print(number, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_told(place: str, store: Store, data: Path) -> None:
    store.flows.save("f", "default", body(), "a")
    told = 1
    for round_ in range(4):
        process = child(_WRITER, data)
        assert process.stdout is not None
        for _ in range(3 + 5 * round_):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.communicate(timeout=30)[0].split())])
        with closing(open_store(data, environ=here())) as survivor:
            flow = survivor.flows.get("f")
            assert flow.newest >= told
            assert flow.live_number == (None if flow.newest == 1 else flow.newest)  # both halves or neither
            assert survivor.flows.numbered("f").number == flow.newest
        assert place != "files" or check_database(data / DATABASE) is None


_READER = """
import os, sys
from pathlib import Path
from appliance.store.errors import StoreReadOnly
from appliance.store.metadata import open_store
if os.geteuid() == 0:  # permissions do not hold root back
    os.setgid(65534)
    os.setuid(65534)
try:
    open_store(Path(sys.argv[1]), environ=os.environ)
except StoreReadOnly as exc:
    print(exc)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can reach, too."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.files_only
@pytest.mark.parametrize("what", ["folder", "file", "parent"])
def test_a_read_only_folder_is_told_in_one_clear_line(reachable: Path, what: str) -> None:
    data = reachable / "data"
    if what != "parent":
        open_store(data, environ=here()).close()
        for path in data.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
    if what == "folder":
        (data / LOCK).unlink()
    if data.exists():
        data.chmod(0o555)
    reachable.chmod(0o555)
    process = child(_READER, data)
    out, err = process.communicate(timeout=60)
    for path in [reachable, *reachable.rglob("*")]:
        path.chmod(0o755)
    assert err == ""
    assert str(data) in out
    assert "writ" in out
    assert out.count("\n") == 1
