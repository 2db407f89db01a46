"""Rows: read from every form, cleaned, without duplicates, split so that no question is on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="the models extra is not installed")

from appliance.ai.training import dataset, rows
from appliance.contracts import ConfigError


def contents(row: rows.Row) -> list[str]:
    return [one["content"] for one in row["messages"]]


def test_rows_are_read_from_every_form(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    lines = [chat, {"prompt": "c", "completion": "d"}, {"instruction": "e", "input": "f", "output": "g"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    (tmp_path / "b.csv").write_text('question,answer\n"h, really",i\n')
    (tmp_path / "c.md").write_text(f"{'x' * 1500}\n\n{'y' * 1500}\n\n{'z' * 1500}\n")
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    found = list(rows.read(tmp_path))
    assert [contents(row) for row in found[:4]] == [["a", "b"], ["c", "d"], ["e\n\nf", "g"], ["h, really", "i"]]
    assert [row["source"] for row in found] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.csv:2", "c.md#1", "c.md#2"]
    assert contents(found[5]) == ["y" * 1500, "z" * 1500]


def test_a_row_without_an_answer_is_counted_and_does_not_end_the_rest(tmp_path: Path) -> None:
    lines = [{"question": "a"}, {"prompt": "b", "completion": None}, {"input": "c"}, {"prompt": "d", "completion": "e"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "b.csv").write_text("question,answer\nf\n")
    cleaner = rows.Cleaner()
    assert [contents(row) for row in cleaner.clean(rows.read(tmp_path))] == [["d", "e"]]
    assert sum(cleaner.dropped.values()) == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"x": 1}', "a.jsonl:1: no row"),
        ("a.jsonl", "{", "a.jsonl:1:"),
        ("a.bin", "", "rows are read from"),
        ("missing.jsonl", None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_rows_is_named_with_its_line(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        list(rows.read(tmp_path / name))


def test_bad_rows_are_dropped_and_counted_by_reason() -> None:
    long_text = " ".join(f"word{number}" for number in range(60))
    given_rows = [
        rows.pair("a\u0301 \x07b  \r\nc", " d ", "1"),
        rows.pair("Á b\nC", "d", "2"),
        rows.pair(long_text, f"{long_text} and then some", "3"),
        rows.pair(f"{long_text}!", f"{long_text} and then some", "4"),
        rows.pair("key is •••", "x", "5"),
        rows.pair("x" * 30_000, "y", "6"),
        rows.pair("empty", " ", "7"),
        {"messages": [{"role": "user", "content": "no answer"}], "source": "8"},
        {"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}], "source": "9"},
    ]
    cleaner = rows.Cleaner()
    left = list(cleaner.clean(given_rows))
    assert [row["source"] for row in left] == ["1", "3"]
    assert contents(left[0]) == ["á b\nc", "d"]
    assert cleaner.dropped == {
        "a duplicate": 1,
        "nearly a duplicate": 1,
        "a hidden secret": 1,
        "too long": 1,
        "an empty message": 1,
        "no question or no answer": 1,
        "a role that is not known": 1,
    }


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=20))
def test_nothing_is_put_in_that_was_not_there(pairs: list[tuple[str, str]]) -> None:
    cleaner = rows.Cleaner()
    left = list(cleaner.clean(rows.pair(question, answer, str(n)) for n, (question, answer) in enumerate(pairs)))
    assert len(left) + sum(cleaner.dropped.values()) == len(pairs)
    for row in left:
        original = rows.pair(*pairs[int(row["source"])], row["source"])
        assert contents(row) == [rows._clean(text) for text in contents(original)]


def test_one_question_is_never_on_both_sides() -> None:
    for number in range(50):
        sides = {rows.is_held(rows.pair(f"Question  {number}", answer, ""), 0.3) for answer in "abc"}
        sides.add(rows.is_held(rows.pair(f"question {number}", "d", ""), 0.3))
        assert len(sides) == 1


def test_a_data_set_is_whole_or_not_there(tmp_path: Path) -> None:
    made = [rows.pair(f"question number {n} about {n * n}", f"answer {n}", f"log.jsonl:{n}") for n in range(200)]
    report = dataset.make(made, tmp_path / "set", share=0.1)
    assert report.read == 200 and report.train + report.held == 200 - sum(report.dropped.values())
    assert 5 < report.held < 40 and report.sources == {"log.jsonl": report.train + report.held}
    sides = [
        {row["messages"][0]["content"] for row in dataset.load(tmp_path / "set", side)} for side in ("train", "held")
    ]
    assert not sides[0] & sides[1]
    with pytest.raises(ConfigError, match="is there already"):
        dataset.make(made, tmp_path / "set")
    with pytest.raises(ConfigError, match="no row is left"):
        dataset.make([], tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    few = dataset.make(made[:2], tmp_path / "few", share=0.0)
    assert (few.train, few.held) == (1, 1)
