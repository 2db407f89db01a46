"""Rows of a data set: read from files, cleaned, without duplicates, split. Nothing is ever put in that was not there.

A row is a chat: ``{"messages": [{"role", "content"}, …], "source": text}``, the last message the assistant's. Files
may be JSON lines (rows like these, ``prompt``/``completion`` or ``instruction``/``output`` pairs, OpenAI's chat logs),
CSV with such columns, or plain text and markdown, whose parts follow each other.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from appliance.contracts import ConfigError

Row = dict[str, Any]

#: Characters of one row, and of the parts that a plain text is cut into.
LONGEST = 20_000
_PART = 1_200
_ROLES = ("system", "user", "assistant")
_PAIRS = (("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("input", "output"))
#: What stands in the history where a secret was.
_HIDDEN = "•••"
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: Hash functions of the sketch by which near duplicates are found, and the likeness from which rows are such.
_SKETCH = 64
NEAR = 0.85


def read(path: Path) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder. Raises ``ConfigError`` for one that cannot be read."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for file in files:
        reader = _READERS.get(file.suffix.lower())
        if reader is None:
            if path.is_dir():
                continue
            raise ConfigError(f"{file}: rows are read from {', '.join(sorted(_READERS))}")
        try:
            yield from reader(file)
        except (OSError, UnicodeDecodeError, csv.Error) as exc:
            raise ConfigError(f"{file} cannot be read: {exc}") from None


def _json_lines(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as exc:
                raise ConfigError(f"{file}:{number}: {exc}") from None
            yield row_of(found, f"{file.name}:{number}")


def _table(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        for number, found in enumerate(csv.DictReader(lines), 2):
            yield row_of(found, f"{file.name}:{number}")


def _text(file: Path) -> Iterator[Row]:
    """Each part of a text is the answer to the one before it: so a model learns to go on in its manner."""
    parts = _parts_of(file.read_text(encoding="utf-8"))
    for number, (before, after) in enumerate(itertools.pairwise(parts), 1):
        messages = [{"role": "user", "content": before}, {"role": "assistant", "content": after}]
        yield {"messages": messages, "source": f"{file.name}#{number}"}


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _table, ".txt": _text, ".md": _text}


def _parts_of(text: str) -> list[str]:
    """Paragraphs, gathered to parts of some length."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if parts and len(parts[-1]) + len(paragraph) < _PART:
            parts[-1] += f"\n\n{paragraph}"
        elif paragraph.strip():
            parts.append(paragraph.strip())
    return parts


def row_of(found: Any, source: str) -> Row:
    """A row from one of the forms that there are; without an answer it has an empty one, which :class:`Cleaner` counts.

    Raises ``ConfigError`` for another form.
    """
    if isinstance(found, Mapping):
        if isinstance(found.get("messages"), list) and all(isinstance(one, Mapping) for one in found["messages"]):
            messages = [{"role": one.get("role"), "content": one.get("content")} for one in found["messages"]]
            return {"messages": messages, "source": str(found.get("source", source))}
        asking = [each for each in _PAIRS if each[0] in found]
        if asking:
            question, answer = min(asking, key=lambda each: each[1] not in found)  # a whole pair, if there is one
            asked = _said(found[question])
            more = found.get("input") if question == "instruction" else None
            return pair(f"{asked}\n\n{more}" if more else asked, _said(found.get(answer)), source)
    known = ", ".join(f"{question}/{answer}" for question, answer in _PAIRS)
    raise ConfigError(f"{source}: no row; it needs `messages`, or {known}")


def _said(value: Any) -> str:
    return "" if value is None else str(value)


def pair(question: str, answer: str, source: str, system: str = "") -> Row:
    """A row of one question and its answer."""
    first = [{"role": "system", "content": system}] if system else []
    messages = [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": source}


class Cleaner:
    """Passes good rows on in a clean form; ``dropped`` counts the others by reason."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._seen: set[bytes] = set()
        self._near = _Near()

    def clean(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that are left."""
        for row in rows:
            messages = [{"role": one["role"], "content": _clean(one["content"])} for one in row["messages"]]
            reason = self._fault(messages)
            if reason:
                self.dropped[reason] += 1
            else:
                yield {"messages": messages, "source": row["source"]}

    def _fault(self, messages: list[dict[str, Any]]) -> str:
        if any(one["role"] not in _ROLES for one in messages):
            return "a role that is not known"
        if not messages or messages[-1]["role"] != "assistant" or not any(one["role"] == "user" for one in messages):
            return "no question or no answer"
        if not all(one["content"] for one in messages):
            return "an empty message"
        text = "\n".join(f"{one['role']}: {one['content']}" for one in messages)
        if _HIDDEN in text:
            return "a hidden secret"
        if len(text) > LONGEST:
            return "too long"
        key = hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()
        if key in self._seen:
            return "a duplicate"
        self._seen.add(key)
        return "nearly a duplicate" if self._near.known(text) else ""


def _clean(text: Any) -> str:
    """One form of each character, no control characters, no spaces at the ends of lines."""
    if not isinstance(text, str):
        return ""
    plain = _CONTROLS.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n")))
    return "\n".join(line.rstrip() for line in plain.split("\n")).strip()


class _Near:
    """Finds rows much like one before by MinHash sketches of their words in threes (Broder 1997), in bands of four.

    Two rows of likeness 0.85 share a band with probability 0.9999; what shares one is compared sketch by sketch.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self._factors = random.integers(1, 1 << 61, _SKETCH, dtype=np.uint64) | np.uint64(1)
        self._bands: dict[bytes, list[int]] = {}
        self._sketches: list[np.ndarray[Any, np.dtype[np.uint64]]] = []

    def known(self, text: str) -> bool:
        """Whether a text much like this one was here before; this one is remembered if not."""
        words = re.findall(r"\w+|[^\w\s]", text.casefold())
        threes = {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
        hashes = [int.from_bytes(hashlib.blake2b(one.encode(), digest_size=8).digest(), "big") for one in threes]
        sketch = (np.array(hashes, np.uint64)[:, None] * self._factors).min(axis=0)
        bands = [bytes([at]) + sketch[at : at + 4].tobytes() for at in range(0, _SKETCH, 4)]
        for other in {number for band in bands for number in self._bands.get(band, ())}:
            if (self._sketches[other] == sketch).mean() >= NEAR:
                return True
        for band in bands:
            self._bands.setdefault(band, []).append(len(self._sketches))
        self._sketches.append(sketch)
        return False


def is_held(row: Row, share: float) -> bool:
    """Whether a row is held out: by its questions alone, so that one question is never on both sides."""
    asked = "\n".join(one["content"] for one in row["messages"] if one["role"] == "user")
    digest = hashlib.sha256(" ".join(asked.casefold().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
