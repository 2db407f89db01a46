"""Ids that sort by time and only grow, whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.runids import MAX_ID, RunIds, day_of, first_of, from_text, moment, to_text

NOW = 1_800_000_000.0


@given(st.integers(0, MAX_ID))
def test_text_and_back(number: int) -> None:
    assert from_text(to_text(number)) == number
    assert from_text(to_text(number).lower()) == number


@given(st.integers(0, MAX_ID), st.integers(0, MAX_ID))
def test_texts_sort_like_the_numbers(one: int, two: int) -> None:
    assert (one < two) == (to_text(one) < to_text(two))


@pytest.mark.parametrize("text", ["", "0" * 12, "0" * 14, "000000000000U", "00000000000-1", "ZZZZZZZZZZZZZ", "٠" * 13])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="not a run id"):
        from_text(text)


@given(st.lists(st.floats(-1e6, 5e9), min_size=2, max_size=200))
def test_ids_grow_whatever_the_clock_does(moments: list[float]) -> None:
    ids = RunIds(3)
    made = [ids.next(when) for when in moments]
    assert made == sorted(set(made))
    assert made[-1] <= MAX_ID


def test_a_clock_that_stands_still_for_a_hundred_thousand_runs() -> None:
    ids = RunIds(0)
    made = [ids.next(NOW) for _ in range(100_000)]
    assert len(set(made)) == len(made)
    assert moment(made[-1]) - NOW < 0.01


def test_a_restart_with_the_clock_set_back_repeats_no_id() -> None:
    first = RunIds(0)
    made = {first.next(NOW) for _ in range(500)}
    again = RunIds(0, max(made))
    assert not made & {again.next(NOW - 7200) for _ in range(500)}


def test_two_writers_never_meet() -> None:
    assert RunIds(0).next(NOW) != RunIds(1).next(NOW)
    with pytest.raises(ValueError, match="6 bits"):
        RunIds(64)


def test_the_day_is_in_the_id() -> None:
    midnight = 1_800_057_600.0
    assert day_of(RunIds(0).next(midnight - 0.001)) == "2027-01-15"
    assert day_of(RunIds(0).next(midnight)) == "2027-01-16"


def test_first_of_bounds_a_moment() -> None:
    number = RunIds(0).next(NOW)
    assert first_of(NOW) <= number < first_of(NOW + 0.001)
    assert first_of(0) == 0
    assert first_of(1e300) == MAX_ID
    assert first_of(float("inf")) == MAX_ID
