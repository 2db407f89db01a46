"""Pictures in a prompt: what stands for them among its tokens. Pure.

A picture is some tokens as those of a text, among which negative numbers stand for the picture itself, one for each
position that it takes. The numbers are made of its content, so that what begins with the same picture begins with the
same tokens.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, Protocol

#: Positions that one picture can have: the numbers that stand for two pictures are at least this far apart.
APART = 1 << 16


class Look(NamedTuple):
    """A picture, or a part of one, that is looked at in one go: ``length`` positions that take ``cells`` cells.

    ``mark`` is the first of the numbers that stand for it, ``chunk`` llama.cpp's own form of it.
    """

    chunk: Any
    mark: int
    length: int
    cells: int

    @property
    def tokens(self) -> range:
        """What stands for it."""
        return range(self.mark, self.mark - self.length, -1)


class Picture:
    """One picture: what stands for it in the prompt, and its looks by their marks. ``owner`` holds what these need."""

    def __init__(self, tokens: list[int], looks: dict[int, Look], owner: object = None) -> None:
        self.tokens = tokens
        self.looks = looks
        self._owner = owner


class Sight(Protocol):
    """What looks at pictures, on the model's thread."""

    def look(self, context: Any, look: Look, position: int, sequence: int) -> int:
        """Read one into a sequence of a context, from ``position`` on; as ``Context.decode``. Raises ``NodeError``."""


def mark_of(picture: bytes, number: int) -> int:
    """The mark of a picture's part; ``picture`` is a digest of its content."""
    own = hashlib.blake2b(picture + number.to_bytes(4, "little"), digest_size=5).digest()
    return -(int.from_bytes(own, "little") + 1) * APART


def goes_on(token: int) -> bool:
    """Whether a token stands for a picture's second or a later position: a prompt cannot be cut before it."""
    return token < 0 and -token % APART != 0
