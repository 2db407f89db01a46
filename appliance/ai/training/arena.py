"""Two models answer the same questions: how near are they to the answers that are known, and which does a judge prefer?

The judge, a third model, sees the two answers without their names and in both orders; only if it says the same both
times it counts. Nearness is the F1 of words, as in SQuAD (arXiv 1606.05250).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from appliance.ai.training.rows import Row

#: Asks a model: its name, messages, and a schema for its answer or None. Gives the reply as the engine does.
Ask = Callable[[str, list[dict[str, Any]], dict[str, Any] | None], dict[str, Any]]

_JUDGE = """\
You compare two answers to the same question. Say which is better: more correct, then more helpful, then shorter.
If neither is better say "same"."""
_CHOICE = {
    "type": "object",
    "properties": {"better": {"enum": ["first", "second", "same"]}},
    "required": ["better"],
    "additionalProperties": False,
}


class Bout(Struct, frozen=True, kw_only=True):
    """One question: both answers, how near each is to the known one (0 to 1), and who won: ``a``, ``b`` or nobody."""

    question: str
    known: str
    a: str
    b: str
    near_a: float
    near_b: float
    seconds_a: float
    seconds_b: float
    winner: str
    judged: bool = False


class Result(Struct, frozen=True, kw_only=True):
    """All bouts, and what they come to."""

    a: str
    b: str
    wins_a: int
    wins_b: int
    exact_a: int
    exact_b: int
    near_a: float
    near_b: float
    bouts: Sequence[Bout]


def compare(
    rows: Sequence[Row],
    a: str,
    b: str,
    ask: Ask,
    judge: str = "",
    tell: Callable[[int, int], None] = lambda n, of: None,
) -> Result:
    """Let both answer. Raises what ``ask`` raises."""
    bouts = []
    for number, row in enumerate(rows, 1):
        bouts.append(_bout(row, a, b, ask, judge))
        tell(number, len(rows))
    count = max(len(bouts), 1)
    return Result(
        a=a,
        b=b,
        wins_a=sum(bout.winner == "a" for bout in bouts),
        wins_b=sum(bout.winner == "b" for bout in bouts),
        exact_a=sum(bout.near_a == 1.0 for bout in bouts),
        exact_b=sum(bout.near_b == 1.0 for bout in bouts),
        near_a=sum(bout.near_a for bout in bouts) / count,
        near_b=sum(bout.near_b for bout in bouts) / count,
        bouts=bouts,
    )


def _bout(row: Row, a: str, b: str, ask: Ask, judge: str) -> Bout:
    asked, known = row["messages"][:-1], row["messages"][-1]["content"]
    one, two = ask(a, asked, None), ask(b, asked, None)
    near_a, near_b = nearness(one["text"], known), nearness(two["text"], known)
    question = asked[-1]["content"]
    if judge:
        winner = _judged(question, one["text"], two["text"], ask, judge)
    else:
        winner = "a" if near_a > near_b else "b" if near_b > near_a else ""
    return Bout(
        question=question,
        known=known,
        a=one["text"],
        b=two["text"],
        near_a=near_a,
        near_b=near_b,
        seconds_a=one["seconds"],
        seconds_b=two["seconds"],
        winner=winner,
        judged=bool(judge),
    )


def _judged(question: str, a: str, b: str, ask: Ask, judge: str) -> str:
    """Who is better in both orders."""

    def better(first: str, second: str) -> str:
        text = f"Question:\n{question}\n\nFirst answer:\n{first}\n\nSecond answer:\n{second}"
        messages = [{"role": "system", "content": _JUDGE}, {"role": "user", "content": text}]
        return str((ask(judge, messages, _CHOICE)["data"] or {}).get("better", "same"))

    forward, backward = better(a, b), better(b, a)
    if (forward, backward) == ("first", "second"):
        return "a"
    return "b" if (forward, backward) == ("second", "first") else ""


def nearness(answer: str, known: str) -> float:
    """The harmonic mean of how much of each is in the other, by words; 1 for the same words in whatever order."""
    said, wanted = _words(answer), _words(known)
    shared = sum((said & wanted).values())
    if not said or not wanted:
        return float(said == wanted)
    return 2 * shared / (sum(said.values()) + sum(wanted.values()))


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))
