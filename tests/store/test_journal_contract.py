"""What every journal does, whatever it is kept in: runs, chunks, keys, letters and durable values, over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.states import Letter, RunState
from appliance.store.history import RunFilter
from appliance.store.journal import Batch, Journal, RunUpdate, StateOp
from appliance.store.metadata import open_store
from appliance.store.places import make_history, make_journal
from appliance.store.runids import moment
from tests.store.stores import body, here
from tests.support.shard_files import DAY, NOON, put, row


@pytest.fixture
def journal(place: str, tmp_path: Path) -> Iterator[Journal]:
    opened = make_journal(tmp_path, writer=0, sync=False)
    opened.open()
    yield opened
    opened.close()


def reopened(journal: Journal, data: Path) -> Journal:
    """As the next start finds it."""
    journal.close()
    again = make_journal(data, writer=0, sync=False)
    again.open()
    return again


def test_a_run_comes_back_as_it_was_written(journal: Journal, tmp_path: Path) -> None:
    number = journal.ids.next(NOON)
    whole = row(number, RunState.WAITING, 7, place="room/1", error=b"\x00\xff", parent=5, origin=6, letter=1)
    bare = row(journal.ids.next(NOON), RunState.WAITING, finished=None)
    batch = Batch()
    batch.runs = [whole, bare]
    journal.commit(batch)
    again = reopened(journal, tmp_path)
    assert again.load(number) == (whole, [])
    assert list(again.under_way()) == [(whole, []), (bare, [])]
    again.close()


def test_a_run_of_an_old_day_is_still_written(journal: Journal) -> None:
    """Of shards only some are kept open; the one that is asked for is never the one that is closed."""
    runs = [put(journal, NOON + n * DAY, state=RunState.WAITING)[0] for n in range(6)]
    for run in (runs[0], runs[5], runs[1], runs[0]):
        batch = Batch()
        batch.updates.append(RunUpdate(run, RunState.SUCCEEDED, 5, None, 0))
        journal.commit(batch)
        loaded = journal.load(run)
        assert loaded is not None and loaded[0].state == RunState.SUCCEEDED
    assert [entry.id for entry, _ in journal.under_way()] == runs[2:5]


def test_one_commit_holds_all_that_happened_to_runs_of_several_days(journal: Journal) -> None:
    (old,) = put(journal, NOON, state=RunState.WAITING)
    batch = Batch()
    evening, morning = journal.ids.next(NOON + DAY), journal.ids.next(NOON + 2 * DAY)
    batch.runs = [row(evening, RunState.RUNNING), row(morning, RunState.QUEUED)]
    batch.chunks = [(evening, 1, b"b"), (old, 1, b"old"), (evening, 0, b"a")]
    batch.updates = [RunUpdate(old, RunState.FAILED, 9, b"error", int(Letter.OPEN))]
    batch.keys = [("k", evening)]
    batch.blobs = [("ab" * 32, evening), ("ab" * 32, evening)]
    journal.commit(batch)
    journal.commit(batch)  # nobody knows whether the first one arrived
    under_way = list(journal.under_way())
    assert [(entry.id, chunks) for entry, chunks in under_way] == [(evening, [b"a", b"b"]), (morning, [])]
    loaded = journal.load(old)
    assert loaded is not None
    assert (loaded[0].state, loaded[0].finished, loaded[0].error, loaded[0].letter) == (11, 9, b"error", 1)
    assert loaded[1] == [b"old"]


def test_a_commit_that_is_made_again_may_have_grown(journal: Journal) -> None:
    number = journal.ids.next(NOON)
    batch = Batch()
    batch.runs = [row(number, RunState.RUNNING, finished=None, steps=b"a")]
    batch.chunks = [(number, 0, b"a")]
    journal.commit(batch)
    batch = Batch()
    batch.runs = [row(number, RunState.SUCCEEDED, steps=b"ab")]
    batch.chunks = [(number, 0, b"ab")]
    journal.commit(batch)
    loaded = journal.load(number)
    assert loaded is not None and (loaded[0].state, loaded[0].steps, loaded[1]) == (10, b"ab", [b"ab"])


def test_nothing_to_commit_is_fine(journal: Journal) -> None:
    journal.commit(Batch())
    assert journal.load(journal.ids.next(NOON)) is None
    assert list(journal.under_way()) == [] and list(journal.children(5)) == []


def test_many_runs_at_once(journal: Journal) -> None:
    runs = put(journal, NOON, 500, RunState.WAITING)
    assert [entry.id for entry, _ in journal.under_way()] == runs


def test_the_run_of_a_unique_event_is_known_the_day_after(journal: Journal, tmp_path: Path) -> None:
    (run,) = put(journal, NOON)
    batch = Batch()
    batch.keys = [("1/t1/\x00strange \ud800 id", run)] if "postgres" in type(journal).__module__ else [("1/t1/id", run)]
    journal.commit(batch)
    put(journal, NOON + DAY)
    again = reopened(journal, tmp_path)
    assert again.run_of_key(batch.keys[0][0]) == run
    assert again.run_of_key("another") is None
    again.close()


def test_runs_under_way_of_the_newest_days(journal: Journal) -> None:
    runs = [put(journal, NOON + n * DAY, state=RunState.WAITING)[0] for n in range(4)]
    assert [entry.id for entry, _ in journal.under_way(2)] == runs[2:]
    assert [entry.id for entry, _ in journal.under_way()] == runs


def test_children_are_found_from_their_parents_day_on(journal: Journal) -> None:
    (parent,) = put(journal, NOON, state=RunState.WAITING)
    first = put(journal, NOON, 2, parent=parent)
    second = put(journal, NOON + DAY, 1, parent=parent)
    put(journal, NOON + DAY, 3)
    assert [entry.id for entry, _ in journal.children(parent)] == first + second


def test_recent_events_of_a_trigger(journal: Journal) -> None:
    put(journal, NOON - 3 * DAY, trigger="t1", event=b"long ago")
    for n in range(6):
        put(journal, NOON + n, flow=1 + n % 2, trigger="t1" if n < 4 else "t2", event=f"{n}".encode())
    put(journal, NOON + DAY, flow=1, trigger="t1", event=b"6")
    found = [event for _, event in journal.recent_events(1, "t1", 3)]
    assert found == [b"6", b"2"]  # of the three newest of the flow, one is of the other trigger


def test_ids_go_on_behind_the_newest_with_the_clock_set_back(journal: Journal, tmp_path: Path) -> None:
    runs = put(journal, NOON, 300)
    again = reopened(journal, tmp_path)
    later = put(again, NOON - 5 * DAY, 300)
    assert min(later) > max(runs)
    assert again.newest() >= moment(runs[-1])
    again.close()


def test_letters(journal: Journal, tmp_path: Path) -> None:
    assert not journal.set_letter(journal.ids.next(NOON), 1, "a", "b", 1)
    (run,) = put(journal, NOON, state=RunState.FAILED)
    assert journal.set_letter(run, Letter.OPEN, "ann", "why", 1)
    assert journal.set_letter(run, Letter.DISCARDED, "bob", "no use", 2)
    history = make_history(tmp_path)
    found = history.detail(run)
    assert found is not None and found.letter_note == (2, "bob", "no use")
    assert [head.id for head in history.page(RunFilter(letter=Letter.DISCARDED)).items] == [run]
    assert history.open_letters() == 0
    history.close()


def test_durable_values_are_there_after_a_crash(journal: Journal, tmp_path: Path) -> None:
    """In the journal behind the store's marker, or in the store at once: what counts is what both give together."""
    store = open_store(tmp_path, environ=here())
    num = store.flows.save("f", "home", body(), "ann").flow
    (run,) = put(journal, NOON, flow=num)
    batch = Batch()
    batch.ops = [
        (run, StateOp(1, num, "a", b"1")),
        (run, StateOp(2, num, "b", b"2")),
        (run, StateOp(3, num, "a", b"3")),
        (run, StateOp(4, num, "b", None)),
        (run, StateOp(5, -1, "account", b"4")),
    ]
    journal.commit(batch)
    journal.commit(batch)
    again = reopened(journal, tmp_path)
    values = {(op.flow, op.key): op.value for op in store.values.load_state()}
    for op in again.state_ops(store.values.state_version()):
        values[op.flow, op.key] = op.value
    assert {place: value for place, value in values.items() if value is not None} == {
        (num, "a"): b"3",
        (-1, "account"): b"4",
    }
    again.drop_state_ops(5)
    assert again.state_ops(0) == []
    again.close()
    store.close()


def test_what_another_process_accepts_is_noticed_and_taken_up(journal: Journal, tmp_path: Path) -> None:
    mine = put(journal, NOON, 2, RunState.WAITING)
    assert [entry.id for entry, _ in journal.under_way(2)] == mine
    before = journal.mark()
    other = make_journal(tmp_path, writer=1, sync=False, shared=True)
    other.open()
    (strange,) = put(other, NOON, state=RunState.QUEUED)
    other.close()
    assert journal.mark() != before
    assert {entry.id for entry, _ in journal.under_way(2)} == {*mine, strange}


def test_a_probe_of_a_journal_that_works(journal: Journal) -> None:
    journal.probe()
    put(journal, NOON)
    journal.probe()
