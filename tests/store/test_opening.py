"""Opening: first start, updates, damage, the last good copy, and several processes at once."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from appliance.contracts import ConfigError
from appliance.store.errors import NotFound, StoreCorrupt, StoreError, StoreTooNew
from appliance.store.good_copy import GOOD_COPY
from appliance.store.metadata import Store, open_store
from appliance.store.opening import DATABASE, RESTORING
from appliance.store.sqlite_file import check_database
from tests.store.stores import Clock, body, child

pytestmark = pytest.mark.files_only


@contextmanager
def opened(data: Path, clock: Clock) -> Iterator[Store]:
    store = open_store(data, environ={}, now=clock)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def saved(data: Path, clock: Clock) -> Path:
    """A data folder with a good copy that has the flow ``kept`` and a later flow ``late``."""
    with opened(data, clock) as store:
        store.flows.save("kept", "default", body("kept", pad="x" * 50_000), "a")
        assert store.keep_good_copy(every=0)
        clock.time += 60
        store.flows.save("late", "default", body("late"), "a")
    return data


def overwrite(path: Path, offset: int, junk: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(junk)


def test_the_first_start_makes_everything_private(data: Path, clock: Clock) -> None:
    with opened(data, clock) as store:
        assert store.report.state == "created"
        assert not store.report.loss
        assert store.repair() is None
    assert data.stat().st_mode & 0o777 == 0o700
    for path in (data / DATABASE, data / GOOD_COPY):
        assert path.stat().st_mode & 0o777 == 0o600
    with opened(data, clock) as store:
        assert store.report.state == "opened"


def test_another_kind_of_database_is_refused_and_not_ignored(data: Path) -> None:
    with pytest.raises(ConfigError, match="FLOWORK_DATABASE_URL"):
        open_store(data, environ={"FLOWORK_DATABASE_URL": "mysql://db/flowork"})
    assert not data.exists()


def test_closing_twice_is_fine(data: Path, clock: Clock) -> None:
    store = open_store(data, environ={}, now=clock)
    store.close()
    store.close()


def test_how_the_file_is_kept(data: Path, clock: Clock) -> None:
    with opened(data, clock) as store:
        for connection in (store._db._writer, store._db._reader):
            assert connection.pragma("journal_mode") == "wal"
            assert connection.pragma("synchronous") == 2
            assert connection.pragma("foreign_keys") == 1
            assert connection.pragma("busy_timeout") == 5000


DAMAGE = {
    "header": lambda path: overwrite(path, 0, b"not a database at all" * 10),
    "pages": lambda path: overwrite(path, 4096, b"\xff" * 4096 * 12),
    "tail": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "short": lambda path: path.write_bytes(b"SQLite format 3\x00"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_moved_aside_and_the_good_copy_takes_its_place(
    saved: Path, clock: Clock, damage: str
) -> None:
    DAMAGE[damage](saved / DATABASE)
    spoilt = (saved / DATABASE).read_bytes() if damage != "missing" else None
    clock.time += 3600
    with opened(saved, clock) as store:
        report = store.report
        assert (report.state, report.loss, report.at) == ("restored", True, clock.time)
        assert report.copy_time == clock.time - 3660
        assert "2027-01-15 08:00:00 UTC" in report.message
        assert report.damage
        assert store.flows.get("kept").newest == 1
        with pytest.raises(NotFound):
            store.flows.get("late")
        assert store.repair() == report
    if spoilt is not None:
        assert Path(report.moved_to).read_bytes() == spoilt
        assert Path(report.moved_to).name == f"{DATABASE}.20270115T090100Z"
    with opened(saved, clock) as store:
        assert store.report.state == "opened"
        assert store.repair() == report  # until somebody has read it
        store.acknowledge_repair()
        assert store.repair() is None
    assert check_database(saved / GOOD_COPY) is None


def test_ids_that_old_runs_name_are_not_given_out_again(saved: Path, clock: Clock) -> None:
    with opened(saved, clock) as store:
        late = store.flows.numbered("late")
    DAMAGE["header"](saved / DATABASE)
    with opened(saved, clock) as store:
        fresh = store.flows.save("fresh", "default", body("fresh"), "a")
        assert fresh.id > late.id
        assert fresh.flow > late.flow
        with pytest.raises(NotFound):
            store.flows.version(late.id)


def test_without_a_good_copy_the_box_starts_empty_and_says_so(saved: Path, clock: Clock) -> None:
    (saved / GOOD_COPY).unlink()
    DAMAGE["header"](saved / DATABASE)
    with opened(saved, clock) as store:
        assert store.report.state == "emptied"
        assert store.report.loss
        assert store.flows.list().items == []
        assert store.flows.save(None, "default", body(), "a").id > 2
    assert Path(store.report.moved_to).exists()


def test_a_copy_that_is_damaged_as_well_is_not_used(saved: Path, clock: Clock) -> None:
    DAMAGE["header"](saved / DATABASE)
    DAMAGE["pages"](saved / GOOD_COPY)
    with opened(saved, clock) as store:
        assert store.report.state == "emptied"


def test_two_repairs_in_one_second_keep_both_files(saved: Path, clock: Clock) -> None:
    moved = []
    for _ in range(2):
        DAMAGE["header"](saved / DATABASE)
        with opened(saved, clock) as store:
            moved.append(store.report.moved_to)
    assert len(set(moved)) == 2
    assert all(Path(path).exists() for path in moved)


def test_a_wal_that_was_cut_off_is_no_damage(saved: Path, clock: Clock, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with opened(saved, clock) as store:
        store.flows.save("wal", "default", body("wal"), "a")
        shutil.copytree(saved, copy)  # as a power cut leaves it: with a WAL that nobody closed
    wal = copy / f"{DATABASE}-wal"
    wal.write_bytes(wal.read_bytes()[:-10])
    with opened(copy, clock) as store:
        assert store.report.state == "opened"
        assert store.flows.get("late").newest == 1


def test_a_database_of_a_newer_flowork_is_refused_and_left_alone(saved: Path, clock: Clock) -> None:
    with closing(sqlite3.connect(saved / DATABASE)) as connection:
        connection.execute("PRAGMA user_version=9999")
    with pytest.raises(StoreTooNew, match="newer Flowork"):
        open_store(saved, environ={}, now=clock)
    with closing(sqlite3.connect(saved / DATABASE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (9999,)
        assert connection.execute("SELECT count(*) FROM flow").fetchone() == (2,)
    assert not (saved / "corrupt").exists()


def test_a_database_of_another_program_is_refused_and_left_alone(data: Path, clock: Clock) -> None:
    data.mkdir()
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="another program"):
        open_store(data, environ={}, now=clock)
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM theirs").fetchone() == (0,)


def test_a_folder_with_half_a_restore_is_refused(data: Path, clock: Clock) -> None:
    (data / RESTORING).mkdir(parents=True)
    with pytest.raises(StoreError, match="restore"):
        open_store(data, environ={}, now=clock)
    assert not (data / DATABASE).exists()


def test_damage_under_other_users_is_not_repaired_behind_their_back(saved: Path, clock: Clock) -> None:
    with opened(saved, clock) as store:
        inode = (saved / DATABASE).stat().st_ino
        overwrite(saved / DATABASE, 0, b"junk" * 25)
        with pytest.raises(StoreCorrupt):
            open_store(saved, environ={}, now=clock)
        assert (saved / DATABASE).stat().st_ino == inode
        assert store.report.state == "opened"
    with opened(saved, clock) as store:
        assert store.report.state == "restored"


def test_a_damaged_database_never_replaces_the_good_copy(saved: Path, clock: Clock) -> None:
    good = (saved / GOOD_COPY).read_bytes()
    with opened(saved, clock) as store:
        DAMAGE["pages"](saved / DATABASE)
        clock.time += 7200
        with pytest.raises(StoreCorrupt):
            store.keep_good_copy()
    assert (saved / GOOD_COPY).read_bytes() == good
    assert list((saved / "backups").iterdir()) == [saved / GOOD_COPY]


def test_the_good_copy_is_renewed_at_most_every_so_often(saved: Path, clock: Clock) -> None:
    with opened(saved, clock) as store:
        assert store.keep_good_copy() is False
        clock.time += 3600
        assert store.keep_good_copy() is True
        store.flows.move("kept", "x")
        assert store.keep_good_copy() is False
        clock.time -= 86400  # a clock that was set back must not stop copies for a day
        assert store.keep_good_copy() is True


def test_nothing_is_written_while_nothing_changes(saved: Path, clock: Clock) -> None:
    with opened(saved, clock) as store:
        assert store.keep_good_copy(every=0) is True
        store.changes()
        before = {path: path.stat().st_mtime_ns for path in saved.rglob("*")}
        for _ in range(3):
            clock.time += 86400
            assert store.keep_good_copy() is False
            store.changes()
            store.values.droppable()
        assert {path: path.stat().st_mtime_ns for path in saved.rglob("*")} == before
    with closing(sqlite3.connect(saved / GOOD_COPY)) as copy:
        assert copy.execute("SELECT id FROM flow ORDER BY id").fetchall() == [("kept",), ("late",)]


_OPEN = """
import sys
from pathlib import Path
from appliance.store.metadata import open_store
sys.stdin.readline()
store = open_store(Path(sys.argv[1]), environ={})
print(store.report.state, flush=True)
sys.stdin.readline()
store.close()
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_start_together_agree(saved: Path, damaged: bool) -> None:
    if damaged:
        DAMAGE["header"](saved / DATABASE)
    processes = [child(_OPEN, saved) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate("\n", timeout=60) for process in processes]
    assert [err for _, err in results] == ["", "", ""]
    states = sorted(out.strip() for out, _ in results)
    assert states == (["opened", "opened", "restored"] if damaged else ["opened"] * 3)
