"""What retention keeps, deletes and rewrites, and that nothing is lost while others read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from appliance.engine.states import RunState
from appliance.store import shards
from appliance.store.history import RunFilter
from appliance.store.journal import Batch, RunUpdate, StateOp
from appliance.store.places import make_history, make_journal, make_retention
from appliance.store.postgres.journal import PostgresJournal
from appliance.store.postgres.retention import PostgresRetention
from appliance.store.retention import Policy, Rule, Swept
from appliance.store.runids import day_of
from tests.support.shard_files import DAY, NOON, garbage_header, put, wreck_table

LARGE = 10**12


class House:
    """A journal, its retention, and an exchange that works at once unless told otherwise."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.journal = make_journal(data, writer=0, sync=False)
        self.journal.open()
        self.history = make_history(data)
        self.between: Callable[[], None] = lambda: None
        self.retention = make_retention(data, self.journal, self._exchange)

    def _exchange(self, day: str, writes: int, change: Callable[[], None]) -> bool:
        self.between()
        if self.journal.writes.get(day, 0) != writes:
            return False
        self.journal.forget(day)
        change()
        return True

    def sweep(self, after_days: float, good: float = 10, other: float = 30, **policy: object) -> Swept:
        rules = {"engine": Rule(good, other), "flows": {}, "max_bytes": LARGE} | policy
        return self.retention.sweep(Policy(**rules), NOON + after_days * DAY)  # type: ignore[arg-type]

    def left(self) -> list[int]:
        return [head.id for head in self.history.page(RunFilter(children=True), limit=10_000).items][::-1]


@pytest.fixture
def house(place: str, tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.history.close()
    made.journal.close()


def test_by_age_good_runs_go_first(house: House) -> None:
    good = put(house.journal, NOON, 5)
    bad = put(house.journal, NOON, 5, RunState.FAILED)
    assert house.sweep(9).deleted == []
    assert house.left() == good + bad
    assert house.sweep(12).rewritten == [day_of(good[0])]
    assert house.left() == bad
    assert house.sweep(32).deleted == [day_of(good[0])]
    assert house.left() == []
    assert house.history.size() == 0


def test_a_flow_may_have_its_own_time(house: House) -> None:
    mine = put(house.journal, NOON, 5, flow=7)
    theirs = put(house.journal, NOON, 5)
    house.sweep(12, flows={7: Rule(100, 100)})
    assert house.left() == mine
    house.sweep(12, flows={7: Rule(0, 0)})
    assert house.left() == []
    assert theirs


def test_runs_under_way_keep_their_shard_for_ever(house: House) -> None:
    (waiting,) = put(house.journal, NOON, state=RunState.WAITING)
    batch = Batch()
    batch.chunks.append((waiting, 0, b"\x90"))
    batch.blobs.append(("ab" * 32, waiting))
    house.journal.commit(batch)
    put(house.journal, NOON, 50)
    house.sweep(1000, max_bytes=0)
    ((row, chunks),) = house.journal.under_way()
    assert (row.id, chunks) == (waiting, [b"\x90"])
    assert house.retention.blobs_in_use(["ab" * 32, "cd" * 32]) == {"ab" * 32}


def test_children_of_a_run_under_way_are_kept(house: House) -> None:
    (parent,) = put(house.journal, NOON, state=RunState.WAITING)
    children = put(house.journal, NOON + DAY, 5, parent=parent)
    house.sweep(1000, max_bytes=0, parents=frozenset({parent}))
    assert house.left() == [parent, *children]
    batch = Batch()
    batch.updates = [RunUpdate(parent, RunState.SUCCEEDED, 1, None, 0)]
    (waiting,) = put(house.journal, NOON, state=RunState.WAITING)
    house.journal.commit(batch)
    house.sweep(1000, max_bytes=0)
    assert house.left() == [waiting]


def test_by_size_the_oldest_good_runs_go_first(house: House) -> None:
    days = [
        put(house.journal, NOON + n * DAY, 200) + put(house.journal, NOON + n * DAY, 5, RunState.FAILED)
        for n in range(3)
    ]
    house.journal.close()
    bound = house.history.size() - 1
    swept = house.sweep(3, good=1000, other=1000, max_bytes=bound)
    assert swept.rewritten == [day_of(days[0][0])] and swept.freed > 0
    assert house.left() == days[0][200:] + days[1] + days[2]
    house.sweep(3, good=1000, other=1000, max_bytes=0)
    assert house.left() == []


def test_today_is_never_touched(house: House) -> None:
    today = put(house.journal, NOON, 5)
    house.sweep(0, good=0, other=0, max_bytes=0)
    assert house.left() == today


@pytest.mark.files_only
def test_a_day_that_was_written_meanwhile_is_left_for_the_next_time(house: House) -> None:
    good, bad = put(house.journal, NOON, 9), put(house.journal, NOON, 1, RunState.FAILED)
    house.between = lambda: house.journal.set_letter(bad[0], 2, "ann", "seen", 1)  # type: ignore[assignment]
    assert house.sweep(12).rewritten == []
    assert house.left() == good + bad
    house.between = lambda: None
    house.sweep(12)
    detail = house.history.detail(bad[0])
    assert detail is not None and detail.letter_note == (1, "ann", "seen")


def test_a_reader_that_has_the_old_file_open_goes_on(house: House) -> None:
    put(house.journal, NOON, 50)
    bad = put(house.journal, NOON, 5, RunState.FAILED)
    house.journal.close()
    assert len(house.left()) == 55
    house.sweep(12)
    assert house.left() == bad
    (more,) = put(house.journal, NOON + DAY)
    assert house.left() == [*bad, more]
    assert house.journal.set_letter(bad[0], 3, "ann", "", 1)


@pytest.mark.files_only
def test_a_reader_in_the_middle_of_reading_puts_the_sweep_off_and_loses_nothing(house: House) -> None:
    put(house.journal, NOON, 50)
    bad = put(house.journal, NOON, 5, RunState.FAILED)
    reader = shards.open_reader(shards.shard_path(house.data, day_of(bad[0])))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM run").fetchone()
    put(house.journal, NOON + 1, 5, RunState.FAILED)
    house.sweep(12)
    assert set(bad) <= set(house.left())
    reader.close()
    house.sweep(12)
    assert len(house.left()) == 10


@pytest.mark.files_only
def test_durable_values_that_are_nowhere_else_keep_their_shard(house: House) -> None:
    (run,) = put(house.journal, NOON)
    batch = Batch()
    batch.ops.append((run, StateOp(1, 1, "k", b"1")))
    house.journal.commit(batch)
    assert house.sweep(1000).deleted == []
    house.journal.drop_state_ops(1)
    assert house.sweep(1000).deleted == [day_of(run)]


def test_blobs_that_lost_a_user_are_named(house: House) -> None:
    (gone,), (kept,) = put(house.journal, NOON), put(house.journal, NOON + 100 * DAY)
    batch = Batch()
    batch.runs, batch.blobs = [], [("aa" * 32, gone), ("bb" * 32, gone), ("bb" * 32, kept)]
    batch.keys = [("x", gone), ("y", kept)]
    house.journal.commit(batch)
    swept = house.sweep(100)
    assert swept.blobs == {"aa" * 32, "bb" * 32}
    assert house.retention.blobs_in_use(swept.blobs) == {"bb" * 32}


@pytest.mark.files_only
@pytest.mark.parametrize("harm", [garbage_header, lambda path: wreck_table(path, "run")])
def test_a_damaged_day_does_not_stop_the_sweep(house: House, harm) -> None:  # type: ignore[no-untyped-def]
    (broken,), (old,) = put(house.journal, NOON), put(house.journal, NOON + DAY)
    house.journal.close()
    harm(shards.shard_path(house.data, day_of(broken)))
    assert house.sweep(100, max_bytes=0).deleted == [day_of(old)]
    if harm is garbage_header:  # what it used cannot be known
        assert house.retention.blobs_in_use({"aa" * 32}) == {"aa" * 32}


def test_a_day_of_the_server_that_is_being_read_is_left_for_the_next_time(database_url: str) -> None:
    journal, retention = PostgresJournal(database_url, writer=0), PostgresRetention(database_url)
    (gone,), kept = put(journal, NOON), put(journal, NOON + DAY)
    policy = Policy(Rule(10, 10), {}, LARGE)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM flowork.run")
        assert retention.sweep(policy, NOON + 11 * DAY).deleted == []
    assert retention.sweep(policy, NOON + 11 * DAY).deleted == [day_of(gone)]
    assert journal.load(gone) is None and journal.load(kept[0]) is not None
    journal.close()


def test_one_kernel_sweeps_at_a_time(database_url: str) -> None:
    journal, retention = PostgresJournal(database_url, writer=0), PostgresRetention(database_url)
    put(journal, NOON)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_lock(1718185076)")
        assert retention.sweep(Policy(Rule(0, 0), {}, 0), NOON + 11 * DAY).deleted == []
    journal.close()


def test_ids_of_events_are_forgotten_after_some_days(database_url: str) -> None:
    journal, retention = PostgresJournal(database_url, writer=0), PostgresRetention(database_url)
    (old,), (new,) = put(journal, NOON), put(journal, NOON + 3 * DAY)
    batch = Batch()
    batch.keys = [("old", old), ("new", new)]
    journal.commit(batch)
    retention.sweep(Policy(Rule(100, 100), {}, LARGE), NOON + 4 * DAY)
    assert (journal.run_of_key("old"), journal.run_of_key("new")) == (None, new)
    journal.close()
