"""Reading runs: pages that follow each other, filters, search, and shards that are damaged or replaced meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine import trace
from appliance.engine.states import Letter, RunState
from appliance.store import shards
from appliance.store.history import History, RunFilter
from appliance.store.journal import Batch, Journal
from appliance.store.places import make_history, make_journal
from appliance.store.runids import day_of
from appliance.store.shards import StoreFailure
from tests.support.shard_files import DAY, NOON, garbage_header, put, row, truncate, wreck_table

ALL = RunFilter()


@pytest.fixture
def journal(place: str, tmp_path: Path) -> Iterator[Journal]:
    opened = make_journal(tmp_path, writer=0, sync=False)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def history(place: str, tmp_path: Path) -> Iterator[History]:
    opened = make_history(tmp_path)
    yield opened
    opened.close()


def ids(history: History, wanted: RunFilter = ALL, before: int | None = None, limit: int = 100) -> list[int]:
    return [head.id for head in history.page(wanted, before, limit).items]


def test_nothing_yet(history: History) -> None:
    assert history.page(ALL).items == []
    assert history.counts(0) == {}
    assert history.head(5) is None and history.detail(5) is None
    assert history.size() == 0 and history.open_letters() == 0


def test_pages_follow_each_other_over_days_while_runs_come_in(journal: Journal, history: History) -> None:
    made = [run for n in range(4) for run in put(journal, NOON + n * DAY, 7)]
    seen: list[int] = []
    cursor: int | None = None
    while True:
        page = history.page(ALL, cursor, 5)
        seen += [head.id for head in page.items]
        put(journal, NOON + 3 * DAY, 3)
        cursor = page.next
        if cursor is None:
            break
    assert seen == sorted(made, reverse=True)


def test_filters(journal: Journal, history: History) -> None:
    good = put(journal, NOON, 3)
    (bad,) = put(journal, NOON, state=RunState.FAILED, flow=2, letter=1)
    (child,) = put(journal, NOON, parent=good[0], trigger="child")
    (again,) = put(journal, NOON + DAY, origin=bad, state=RunState.WAITING)
    assert ids(history, RunFilter(states=[RunState.FAILED])) == [bad]
    assert ids(history, RunFilter(states=[RunState.WAITING])) == [again]
    assert ids(history, RunFilter(states=[RunState.SUCCEEDED, RunState.FAILED])) == [bad, *reversed(good)]
    assert ids(history, RunFilter(flows=[2])) == [bad]
    assert ids(history, RunFilter(letter=Letter.OPEN)) == [bad]
    assert ids(history, RunFilter(parent=good[0])) == [child]
    assert ids(history, RunFilter(origin=bad)) == [again]
    assert child in ids(history, RunFilter(children=True)) and child not in ids(history)
    assert ids(history, RunFilter(since=NOON + DAY - 1)) == [again]
    assert again not in ids(history, RunFilter(until=NOON + DAY - 1))
    assert ids(history, RunFilter(since=1e300)) == ids(history, RunFilter(until=-1e300)) == []
    assert history.open_letters() == 1
    assert history.counts(NOON - 1) == {"succeeded": 3, "failed": 1, "waiting": 1}
    assert {flow: head.id for flow, head in history.newest_of([1, 2, 3]).items()} == {1: again, 2: bad}


def test_text_is_found_in_event_steps_errors_and_chunks(journal: Journal, history: History) -> None:
    put(journal, NOON, 5)
    (one,) = put(journal, NOON, event=trace.pack(["", {}, "a needle here", None]))
    (two,) = put(journal, NOON, steps=trace.join([trace.pack([1, 0, 1, 0, 0, "out", "needle", None])]))
    (three,) = put(journal, NOON)
    batch = Batch()
    batch.chunks.append((three, 0, trace.pack("needle")))
    journal.commit(batch)
    assert ids(history, RunFilter(text="needle")) == [three, two, one]
    assert ids(history, RunFilter(text="needle"), limit=2) == [three, two]


def test_a_search_gives_up_for_now_and_goes_on(
    journal: Journal, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(History, "scan", 10)
    (old,) = put(journal, NOON, event=trace.pack(["", {}, "needle", None]))
    put(journal, NOON, 35)
    cursor, pages, found = None, 0, []
    while True:
        page = history.page(RunFilter(text="needle"), cursor)
        found += [head.id for head in page.items]
        pages += 1
        if page.next is None:
            break
        cursor = page.next
    assert found == [old]
    assert pages >= 4


@pytest.mark.files_only
@pytest.mark.parametrize(
    "harm", [garbage_header, lambda path: wreck_table(path, "run"), lambda path: truncate(path, 0.2)]
)
def test_a_damaged_day_is_named_and_the_others_are_shown(journal: Journal, history: History, harm) -> None:  # type: ignore[no-untyped-def]
    first, second, third = (put(journal, NOON + n * DAY, 200) for n in range(3))
    journal.close()
    day = day_of(second[0])
    harm(shards.shard_path(history._data, day))
    page = history.page(ALL, limit=1000)
    assert [head.id for head in page.items] == [*reversed(third), *reversed(first)]
    assert page.damaged == (day,) and day in history.damaged
    assert history.counts(0) == {"succeeded": 400}
    assert history.head(second[0]) is None
    with pytest.raises(StoreFailure, match=day):
        history.detail(second[0])
    assert history.newest_of([1])[1].id == third[-1]
    assert history.open_letters() == 0 and history.size() > 0


def test_damaged_records_of_one_run(journal: Journal, history: History) -> None:
    batch = Batch()
    number = journal.ids.next(NOON)
    batch.runs.append(row(number, RunState.FAILED, steps=b"\x93\xff\xff", error=b"\xc1"))
    journal.commit(batch)
    assert "damaged" in history.page(ALL).items[0].error["message"]
    with pytest.raises(StoreFailure, match="damaged"):
        history.detail(number)


@pytest.mark.files_only
def test_a_shard_that_is_replaced_or_deleted_meanwhile(journal: Journal, history: History, tmp_path: Path) -> None:
    (run,) = put(journal, NOON)
    assert ids(history) == [run]
    path = shards.shard_path(tmp_path, day_of(run))
    journal.close()
    other = make_journal(tmp_path / "other", writer=0, sync=False)
    (new,) = put(other, NOON + 5)
    other.close()
    for side in shards.files_of(path)[1:]:
        side.unlink(missing_ok=True)
    shards.shard_path(tmp_path / "other", day_of(new)).replace(path)
    assert ids(history) == [new]
    path.unlink()
    assert ids(history) == []


@pytest.mark.files_only
def test_more_days_than_are_kept_open(journal: Journal, history: History) -> None:
    runs = [put(journal, NOON + n * DAY)[0] for n in range(9)]
    for _ in range(2):
        assert ids(history) == runs[::-1]
    assert len(history._all) <= 4
