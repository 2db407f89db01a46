"""Known answers: what is the same question, what is remembered for how long, and the bound."""

from __future__ import annotations

import msgspec
import pytest

from appliance.ai.gateway.cache import LONGEST, Cache, key_of, key_of_text
from appliance.contracts import ChatReply, ChatRequest
from tests.ai.gateway.places import place

QUESTION = ChatRequest(messages=[{"role": "user", "content": "why?"}])
REPLY = ChatReply(text="because", model="small", provider="cloud", tokens_in=3, tokens_out=1, cost=0.5, seconds=2.0)


def test_an_answer_is_given_again_and_costs_nothing() -> None:
    cache, key = Cache(100_000), key_of(place(), QUESTION)
    assert key is not None
    assert cache.answer(key) is None
    cache.keep_answer(key, REPLY)
    known = cache.answer(key)
    assert known is not None
    assert (known.text, known.from_cache, known.cost, known.seconds, known.tokens_in) == ("because", True, 0.0, 0.0, 3)


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "why not?"}]},
        {"schema": {"type": "object"}},
        {"max_tokens": 7},
        {"seed": 1},
        {"stop": (".",)},
        {"top_p": 0.5},
    ],
)
def test_whatever_changes_the_answer_is_another_question(other: dict[str, object]) -> None:
    assert key_of(place(), msgspec.structs.replace(QUESTION, **other)) != key_of(place(), QUESTION)


def test_another_model_or_another_server_of_the_name_is_another_question() -> None:
    keys = {key_of(place(), QUESTION), key_of(place(model="large"), QUESTION), key_of(place(name="b"), QUESTION)}
    keys.add(key_of(place(url="https://other.example/v1"), QUESTION))
    assert len(keys) == 4


def test_patience_and_what_is_shared_do_not_matter() -> None:
    other = msgspec.structs.replace(QUESTION, timeout=1.0, shared=1, models=("x",))
    assert key_of(place(), other) == key_of(place(), QUESTION)


@pytest.mark.parametrize("other", [{"temperature": 0.1}, {"cache": False}])
def test_what_may_differ_each_time_is_not_remembered(other: dict[str, object]) -> None:
    assert key_of(place(), msgspec.structs.replace(QUESTION, **other)) is None


def test_an_answer_is_too_old_after_a_day() -> None:
    now = [0.0]
    cache = Cache(100_000, clock=lambda: now[0])
    cache.keep_answer(b"k", REPLY)
    now[0] = LONGEST
    assert cache.answer(b"k") is not None
    now[0] = LONGEST + 1
    assert cache.answer(b"k") is None
    assert cache.size == 0


def test_the_bound_holds_and_what_was_not_asked_for_goes_first() -> None:
    cache = Cache(10_000)
    for number in range(100):
        cache.keep_vector(bytes([number]), [0.5] * 384)
        assert cache.vector(b"\0") is not None, "it is asked for again and again"
        assert cache.size <= 10_000
    assert cache.vector(b"\1") is None
    assert cache.vector(bytes([99])) == [0.5] * 384
    cache.resize(0)
    assert (cache.size, cache.vector(bytes([99]))) == (0, None)


def test_what_is_too_large_for_it_is_not_kept() -> None:
    cache = Cache(10_000)
    cache.keep_answer(b"small", REPLY)
    cache.keep_answer(b"large", msgspec.structs.replace(REPLY, text="x" * 9_000))
    assert cache.answer(b"large") is None
    assert cache.answer(b"small") is not None


def test_texts_are_told_apart() -> None:
    assert key_of_text(place(), "a") != key_of_text(place(), "b")
