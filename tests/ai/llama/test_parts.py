"""The engine's pure parts: text that comes in pieces, the choice of a token, the queue, slots and the shelf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.llama.sampling import Choice
from appliance.ai.host.llama.shelf import Kept, Shelf
from appliance.ai.host.llama.slots import Slots, common_prefix, fitting
from appliance.ai.host.llama.text import TextOut
from appliance.ai.host.llama.waiting import PATIENCE, Waiting

texts = st.text(st.sampled_from("ab.é€😀\n"), max_size=30)


@given(text=texts, stops=st.lists(st.text(st.sampled_from("ab.é"), max_size=3), max_size=3), data=st.data())
def test_pieces_joined_are_the_text_up_to_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    out = TextOut(stops)
    pieces = [out.feed(raw[start:end]) for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    pieces.append(out.finish())
    places = [text.find(stop) for stop in stops if stop and stop in text]
    assert "".join(pieces) == out.text == text[: min(places, default=len(text))]
    assert out.stopped == bool(places)


@given(raw=st.binary(max_size=30), data=st.data())
def test_bytes_that_are_no_text_become_marks_and_never_fail(raw: bytes, data: st.DataObject) -> None:
    out = TextOut()
    cut = data.draw(st.integers(0, len(raw)))
    assert out.feed(raw[:cut]) + out.feed(raw[cut:]) + out.finish() == raw.decode("utf-8", "replace")


def test_text_is_given_out_as_soon_as_it_is_certain() -> None:
    out = TextOut(["END"])
    assert out.feed("€".encode()[:1]) == ""
    assert out.feed("€".encode()[1:] + b"x E") == "€x "
    assert out.feed(b"N") == ""
    assert out.feed(b"e") == "ENe"
    assert out.feed(b"END of it") == ""
    assert out.stopped
    assert out.feed(b"more") == out.finish() == ""


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_greedy_takes_the_best() -> None:
    assert Choice().pick(scores(0.1, 3.0, -1.0, 2.9)) == 1


def test_chance_follows_the_scores() -> None:
    choice = Choice(temperature=1.0, seed=7)
    picks = [choice.pick(np.log(scores(0.5, 0.3, 0.2))) for _ in range(4000)]
    shares = np.bincount(picks, minlength=3) / 4000
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


@pytest.mark.parametrize(
    ("settings_", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 0.95}, {0, 1, 2}),
        ({"min_p": 0.5}, {0, 1}),
        ({"top_k": 3, "top_p": 0.55}, {0, 1}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_what_is_unlikely_is_cut_off(settings_: dict[str, float], allowed: set[int]) -> None:
    choice = Choice(temperature=1.0, seed=3, **settings_)  # type: ignore[arg-type]
    assert {choice.pick(np.log(scores(0.5, 0.3, 0.15, 0.05))) for _ in range(500)} == allowed


def test_heat_flattens() -> None:
    cold, hot = (Choice(temperature=heat, seed=5) for heat in (0.2, 5.0))
    values = scores(2.0, 1.0, 0.0)
    assert sum(cold.pick(values) for _ in range(500)) < 20 < sum(hot.pick(values) for _ in range(500))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 50))
def test_every_pick_is_one_of_them(seed: int, count: int) -> None:
    values = np.random.default_rng(seed).normal(0, 30, count).astype(np.float32)
    choice = Choice(temperature=0.8, top_k=10, top_p=0.9, min_p=0.01, seed=seed)
    assert 0 <= choice.pick(values) < count


def test_the_repeat_penalty_leaves_the_models_own_scores_alone() -> None:
    choice = Choice(repeat_penalty=2.0)
    values = scores(4.0, -4.0, 1.0)
    assert choice.scores(values) is values
    choice.accept(0), choice.accept(1)
    assert choice.scores(values).tolist() == [2.0, -8.0, 1.0]
    assert values.tolist() == [4.0, -4.0, 1.0]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error(broken: float) -> None:
    with pytest.raises(ModelUnusable, match="NaN"):
        Choice().pick(scores(1.0, broken, 2.0))


@dataclass
class Waiter:
    name: str
    priority: int
    submitted: float


def test_nobody_waits_for_ever() -> None:
    line: Waiting[Waiter] = Waiting(3)
    low = Waiter("low", 0, 0.0)
    line.add(low)
    line.add(Waiter("high", 2, 1.0))
    assert not line.full
    assert line.first(2.0).name == "high"  # type: ignore[union-attr]
    line.add(Waiter("new and high", 2, 2 * PATIENCE + 1))
    assert line.full
    line.remove(line.everyone()[1])
    assert line.first(2 * PATIENCE + 1) is low  # it came first, and has waited itself up to the other
    line.remove(low)
    assert line.first(0.0).name == "new and high"  # type: ignore[union-attr]


tokens = st.lists(st.integers(0, 2), max_size=8)


@given(tokens, tokens)
def test_common_prefix(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert one[length : length + 1] != other[length : length + 1] or not (one[length:] and other[length:])


def test_something_must_be_left_to_evaluate() -> None:
    assert fitting([1, 2, 3], [1, 2, 3], whole=False) == 2
    assert fitting([1, 2, 3], [1, 2, 3, 4], whole=True) == 3
    assert fitting([1, 2, 3], [1, 2, 3], whole=True) == 0
    assert fitting([1, 2, 3], [1, 2, 4, 5], whole=True) == 0
    assert fitting([], [1], whole=False) == 0


@settings(max_examples=200)
@given(steps=st.lists(st.tuples(st.sampled_from(["extend", "share", "cut"]), st.integers(0, 3), st.integers(0, 6))))
def test_a_cell_is_counted_once_however_many_hold_it(steps: list[tuple[str, int, int]]) -> None:
    slots = Slots(4, 100)
    for step, number, amount in steps:
        slot, other = slots.slots[number], slots.slots[(number + 1) % 4]
        if step == "extend":
            slots.extend(slot, range(amount))
        elif step == "cut":
            slots.cut(slot, min(amount, len(slot.tokens)))
        elif not other.tokens:
            slots.share(slot, other, min(amount, len(slot.tokens)))
    assert slots.filled == len({cell for slot in slots.slots for cell in slot.cells})
    assert all(len(slot.cells) == len(slot.tokens) for slot in slots.slots)


def kept(first: int, size: int, *, pinned: bool = False, length: int = 20) -> Kept:
    return Kept([first, *range(length)], "", bytearray(size), pinned=pinned)


def test_the_shelf_lets_go_of_the_longest_unused_and_of_shared_beginnings_last() -> None:
    shelf = Shelf(100)
    pin, one, two = kept(1, 30, pinned=True), kept(2, 30), kept(3, 30)
    for thing in (pin, one, two):
        assert shelf.add(thing) == []
    shelf.touch(one)
    four = kept(4, 30)
    assert shelf.add(four) == [two]
    assert shelf.add(kept(5, 60)) == [one, four]
    assert shelf.find(pin.tokens, "") is pin
    too_large = kept(6, 200)
    assert shelf.add(too_large)[-1] is too_large
    assert shelf.bytes == 0


def test_what_only_begins_like_a_longer_text_is_not_kept_twice() -> None:
    shelf = Shelf(1000)
    shelf.add(kept(1, 10, length=20))
    shelf.add(kept(1, 12, length=30))
    assert shelf.bytes == 12
    shelf.add(kept(1, 10, length=10, pinned=True))
    shelf.add(kept(1, 14, length=40))
    assert shelf.bytes == 24
    assert shelf.match([1, *range(12), 99], "")[1] == 13
    assert shelf.match([1, *range(12), 99], "loud")[1] == 0
