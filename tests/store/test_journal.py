"""The journal in shards: what it does when files are damaged, the disk is full, or a commit fails half-way."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.states import RunState
from appliance.store import shards
from appliance.store.journal import Batch, StateOp
from appliance.store.runids import day_of
from appliance.store.shard_journal import ShardJournal
from appliance.store.shards import StoreFailure
from tests.support.shard_files import DAY, NOON, garbage_header, put, row, truncate, wreck_table


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[ShardJournal]:
    opened = ShardJournal(tmp_path, writer=0, sync=False)
    opened.open()
    yield opened
    opened.close()


def reopened(journal: ShardJournal, data: Path) -> ShardJournal:
    journal.close()
    journal.__init__(data, writer=0, sync=False)  # type: ignore[misc]
    journal.open()
    return journal


def test_a_batch_over_midnight_is_made_again_when_its_second_day_failed(journal: ShardJournal) -> None:
    batch = Batch()
    evening, morning = journal.ids.next(NOON), journal.ids.next(NOON + DAY)
    batch.runs = [row(evening), row(morning)]
    batch.chunks = [(evening, 1, b"x"), (morning, 1, b"y" * 100_000)]
    batch.ops = [(evening, StateOp(1, 1, "k", b"1")), (morning, StateOp(2, 1, "k", b"2"))]
    shard = journal._shard(day_of(morning))
    shard.execute("PRAGMA max_page_count=1")
    with pytest.raises(StoreFailure):
        journal.commit(batch)
    shard.execute("PRAGMA max_page_count=1000000")
    journal.commit(batch)
    assert [journal.load(run) is not None for run in (evening, morning)] == [True, True]
    assert [op.ver for op in journal.state_ops(0)] == [1, 2]


def test_a_full_disk_leaves_no_transaction_open(journal: ShardJournal) -> None:
    (run,) = put(journal, NOON)
    shard = journal._shard(day_of(run))
    pages = shard.execute("PRAGMA page_count").fetchone()[0]
    shard.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreFailure, match="full"):
        journal.set_letter(run, 1, "ann", "x" * 100_000, 1)
    assert not shard.in_transaction
    shard.execute("PRAGMA max_page_count=1000000")
    assert journal.set_letter(run, 1, "ann", "why", 1)


@pytest.mark.parametrize("harm", [garbage_header, lambda path: path.write_bytes(b"\x00" * 5000)])
def test_a_damaged_shard_at_open_is_set_aside(journal: ShardJournal, tmp_path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    (run,) = put(journal, NOON)
    journal.close()
    harm(shards.shard_path(tmp_path, day_of(run)))
    reopened(journal, tmp_path)
    assert len(journal.damaged) == 1 and Path(journal.damaged[0]).exists()
    assert put(journal, NOON)


def test_two_damaged_shards_of_one_name_are_both_kept(journal: ShardJournal, tmp_path: Path) -> None:
    for _ in range(2):
        (run,) = put(journal, NOON)
        journal.close()
        garbage_header(shards.shard_path(tmp_path, day_of(run)))
        reopened(journal, tmp_path)
    assert len(list((tmp_path / "corrupt").glob("*.db.*"))) == 2


@pytest.mark.parametrize("table", ["flow_span", "letter_note", "event_key"])
def test_runs_under_way_are_saved_from_a_damaged_shard(journal: ShardJournal, tmp_path: Path, table: str) -> None:
    (run,) = put(journal, NOON, state=RunState.WAITING, steps=b"")
    put(journal, NOON, 50)
    batch = Batch()
    batch.chunks, batch.ops = [(run, 0, b"\x90")], [(run, StateOp(7, 1, "k", b"1"))]
    journal.commit(batch)
    journal.close()
    wreck_table(shards.shard_path(tmp_path, day_of(run)), table)
    reopened(journal, tmp_path)
    with pytest.raises(StoreFailure):
        for _ in range(2):  # the first may not touch what is broken
            put(journal, NOON, 40)
            journal.set_letter(run, 1, "a", "b", 1)
            journal.commit(_with_key(run))
    assert put(journal, NOON)
    ((saved, chunks),) = list(journal.under_way())
    assert (saved.id, chunks) == (run, [b"\x90"])
    assert [op.ver for op in journal.state_ops(0)] == [7]


def _with_key(run: int) -> Batch:
    batch = Batch()
    batch.keys.append(("k", run))
    return batch


def test_a_shard_that_breaks_while_it_is_read_is_replaced(journal: ShardJournal, tmp_path: Path) -> None:
    (run,) = put(journal, NOON, state=RunState.WAITING)
    put(journal, NOON, 500, steps=b"\x90" + b"x" * 500)
    journal.close()
    truncate(shards.shard_path(tmp_path, day_of(run)))
    reopened(journal, tmp_path)
    list(journal.under_way())
    assert journal.run_of_key("nothing") is None
    journal.load(run)
    assert put(journal, NOON)


def test_a_shard_of_a_newer_flowork_is_refused_in_words(journal: ShardJournal, tmp_path: Path) -> None:
    (run,) = put(journal, NOON)
    journal.close()
    path = shards.shard_path(tmp_path, day_of(run))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreFailure, match="newer Flowork"):
        reopened(journal, tmp_path)
    assert path.exists()


def test_state_changes_are_dropped_up_to_a_number(journal: ShardJournal) -> None:
    (run,) = put(journal, NOON)
    batch = Batch()
    batch.ops = [(run, StateOp(n, 1, "k", b"1")) for n in (1, 2, 3)]
    journal.commit(batch)
    journal.drop_state_ops(2)
    assert [op.ver for op in journal.state_ops(0)] == [3]


def test_a_probe_tells_whether_the_disk_takes_anything(journal: ShardJournal) -> None:
    (run,) = put(journal, NOON)
    journal.probe()
    journal._shard(day_of(run)).execute("PRAGMA query_only=1")
    with pytest.raises(StoreFailure, match="readonly"):
        journal.probe()
    journal.probe()  # on a fresh connection


def test_commits_do_not_lengthen_the_log_of_the_newest_day_and_survive_a_power_cut(tmp_path: Path) -> None:
    journal = ShardJournal(tmp_path / "data", writer=0, sync=True)
    journal.open()
    runs = put(journal, NOON)
    path = shards.shard_path(tmp_path / "data", day_of(runs[0]))
    journal.lengthen()
    assert shards.files_of(path)[1].stat().st_size < shards.LOG_LENGTH, "hardly anything has happened on this day"
    for _ in range(20):
        runs += put(journal, NOON)
    journal.lengthen()
    length = shards.files_of(path)[1].stat().st_size
    for _ in range(50):
        runs += put(journal, NOON)
    assert shards.files_of(path)[1].stat().st_size == length == shards.LOG_LENGTH
    # What a cut leaves: the files as they are, without SQLite's index of the log, which lies in memory.
    cut = shards.shard_path(tmp_path / "cut", day_of(runs[0]))
    cut.parent.mkdir(parents=True)
    for file, copy in list(zip(shards.files_of(path), shards.files_of(cut), strict=True))[:2]:
        shutil.copy(file, copy)
    journal.close()
    after = ShardJournal(tmp_path / "cut", writer=0, sync=True)
    after.open()
    assert all(after.load(run) is not None for run in runs)
    (another,) = put(after, NOON)
    assert after.load(another) is not None
    after.close()


def test_lengthening_the_log_leaves_alone_what_others_have_written_there(tmp_path: Path) -> None:
    journals = [ShardJournal(tmp_path, writer=writer, sync=True) for writer in (0, 1)]
    runs = []
    for journal in journals:
        journal.open()
        for _ in range(20):
            runs += put(journal, NOON)
    journals[1].lengthen()
    for journal in journals:
        runs += put(journal, NOON)
    assert shards.files_of(shards.shard_path(tmp_path, day_of(runs[0])))[1].stat().st_size == shards.LOG_LENGTH
    assert all(journal.load(run) is not None for journal in journals for run in runs)
    for journal in journals:
        journal.close()
    connection = shards.open_reader(shards.shard_path(tmp_path, day_of(runs[0])))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
