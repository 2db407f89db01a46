"""The small parts by themselves: what is remembered, kept, noticed, and shown."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from appliance.gateway import idempotency
from appliance.gateway.answers import matches, weak_tag
from appliance.gateway.idempotency import Answer, InProgress, KeyReused, Remembered
from appliance.gateway.identity import remote_of
from appliance.gateway.kept import Kept
from tests.security.memory import Clock

FIRST = Answer(201, b"first", {})


def test_a_request_under_way_is_not_begun_again() -> None:
    kept = Remembered(Clock())
    assert kept.begin("k", b"one") is None
    with pytest.raises(InProgress):
        kept.begin("k", b"one")
    kept.keep("k", FIRST)
    assert kept.begin("k", b"one") == FIRST
    with pytest.raises(KeyReused):
        kept.begin("k", b"two")
    assert kept.begin("other", b"two") is None
    kept.drop("other")
    assert kept.begin("other", b"three") is None


def test_answers_are_kept_for_a_day_and_no_more_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    kept = Remembered(clock)
    kept.begin("old", b"")
    kept.keep("old", FIRST)
    clock.time += idempotency.DAY + 1
    assert kept.begin("old", b"changed") is None
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    for number in range(5):
        kept.begin(f"n{number}", b"")
        kept.keep(f"n{number}", FIRST)
    assert kept.begin("n4", b"") == FIRST
    assert kept.begin("n1", b"") is None
    monkeypatch.setattr(idempotency, "MAX_BYTES", 10)
    kept.begin("large", b"")
    kept.keep("large", Answer(200, b"x" * 100, {}))
    kept.begin("next", b"")
    assert kept.begin("large", b"") is None


def test_a_slow_answer_holds_up_one_caller() -> None:
    clock = Clock()
    asked: list[int] = []
    go_on, begun = threading.Event(), threading.Event()

    def ask() -> int:
        asked.append(1)
        if len(asked) == 2:
            begun.set()
            go_on.wait(10)
        return len(asked)

    kept = Kept(ask, 1.0, clock)
    assert (kept(), kept(), len(asked)) == (1, 1, 1)
    clock.time += 2
    slow: list[int] = []
    other = threading.Thread(target=lambda: slow.append(kept()))
    other.start()
    assert begun.wait(10)
    assert kept() == 1  # what there is
    go_on.set()
    other.join()
    assert (slow, kept(), len(asked)) == ([2], 2, 2)
    kept.forget()
    assert kept() == 3


@pytest.mark.parametrize(
    ("environ", "remote"),
    [
        ({"REMOTE_ADDR": "192.0.2.7"}, "192.0.2.7"),
        ({"REMOTE_ADDR": "192.0.2.7", "HTTP_X_FORWARDED_FOR": "203.0.113.1"}, "192.0.2.7"),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.0.0.1, 203.0.113.1"}, "203.0.113.1"),
        ({"REMOTE_ADDR": "::1", "HTTP_X_FORWARDED_FOR": ""}, "::1"),
        ({}, ""),
    ],
)
def test_a_proxy_is_believed_only_on_this_machine(environ: dict[str, Any], remote: str) -> None:
    assert remote_of(environ) == remote


def test_tags_are_compared_weakly() -> None:
    tag = weak_tag(b"data")
    assert matches(tag, tag) and matches(tag.removeprefix("W/"), tag) and matches("*", tag)
    assert matches(f'"x" , {tag}', tag)
    assert not matches('"x"', tag) and not matches("", tag)
    assert weak_tag(b"other") != tag
