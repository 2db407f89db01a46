"""Two models side by side: who is nearer, and what a judge says that sees them without their names."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("numpy", reason="the models extra is not installed")

from appliance.ai.training import arena, rows

QUESTIONS = [rows.pair("capital of France?", "It is Paris.", "1"), rows.pair("two and two?", "four", "2")]
ANSWERS = {
    ("good", "capital of France?"): "it is paris",
    ("good", "two and two?"): "Four!",
    ("bad", "capital of France?"): "It is a city",
    ("bad", "two and two?"): "five",
}


def ask(model: str, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> dict[str, Any]:
    assert schema is None
    return {"text": ANSWERS[model, messages[-1]["content"]], "seconds": 0.5}


def test_who_is_nearer_to_the_known_answers_wins() -> None:
    told: list[tuple[int, int]] = []
    result = arena.compare(QUESTIONS, "bad", "good", ask, tell=lambda done, of: told.append((done, of)))
    assert (result.wins_a, result.wins_b, result.exact_a, result.exact_b) == (0, 2, 0, 2)
    assert result.near_b == 1.0 and 0 < result.bouts[0].near_a < 1
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("says", "winner"), [("paris", "b"), ("first", "")])
def test_a_judge_counts_only_if_it_says_the_same_in_both_orders(says: str, winner: str) -> None:
    seen: list[str] = []

    def judged(model: str, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> dict[str, Any]:
        if model != "judge":
            return ask(model, messages, schema)
        assert schema == arena._CHOICE
        seen.append(messages[-1]["content"])
        first, second = messages[-1]["content"].split("Second answer:")
        better = "first" if says == "first" or says in first else "second" if says in second else "same"
        return {"data": {"better": better}}

    result = arena.compare(QUESTIONS[:1], "bad", "good", judged, "judge")
    assert result.bouts[0].winner == winner and result.bouts[0].judged
    assert len(seen) == 2 and "bad" not in "".join(seen)


@pytest.mark.parametrize(
    ("answer", "known", "near"), [("", "", 1.0), ("a", "", 0.0), ("a b", "b a", 1.0), ("a b", "a", 2 / 3)]
)
def test_nearness(answer: str, known: str, near: float) -> None:
    assert arena.nearness(answer, known) == pytest.approx(near)
