"""What the tests' tiny models can read: the tokens of a real BPE, and the words of a WordPiece vocabulary.

Both were made from Flowork's documents once and are kept in ``words.json``: were they made anew whenever a document
changes, what the models answer would change with it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

_FILE = Path(__file__).with_suffix(".json")


@functools.cache
def _kept() -> dict[str, list[str]]:
    kept: dict[str, list[str]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return kept


def bpe(size: int = 1024) -> tuple[list[str], list[str]]:
    """Tokens of a byte-level BPE (three special ones, 256 letters, what was merged), and its merges, most usual first.

    A smaller ``size`` (1,024 at most) is that of one that was trained for less long.
    """
    tokens, merges = _kept()["tokens"], _kept()["merges"]
    return tokens[:size], merges[: len(merges) - (len(tokens) - size)]


def words() -> list[str]:
    """English words in small ASCII letters, sorted."""
    return _kept()["words"]
