"""Keeps secrets out of whatever is kept or shown: finds them in bytes, text and JSON-like values and hides them.

``found_in`` is asked for every chunk that is journaled, so it must cost about a microsecond however many
secrets there are. It reads the chunk as whole machine words of 4 (or 8) bytes: a needle of at least 7 (15) bytes
covers one aligned word wherever it lies, so it is enough to know, for each of 4 (8) alignments, the word
that would be seen. One pass over the words against one set; only a hit is looked at closely. What is sought
is told in ``scrub_forms``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any, Literal

from appliance.security.scrub_forms import MIN_LENGTH, environment_secrets, forms
from appliance.security.secret import MASK, Secret

__all__ = ["MASK", "MIN_LENGTH", "ScrubFilter", "Scrubber", "environment_secrets"]

_WORD, _LONG_WORD = 4, 8
#: Deeper nesting is hidden as a whole: no flow needs it, and a walk must not run out of stack.
_DEEPEST = 150
#: What a record has without ``extra``; ``message`` and ``asctime`` are formatters' notes.
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _Index:
    """What is sought, made ready once; replaced as a whole when the secrets change."""

    __slots__ = ("beginnings", "in_bytes", "in_text", "longest", "needles", "short", "type", "width", "words")

    def __init__(self, values: Iterable[str]) -> None:
        texts: dict[str, bool] = {}  # form → may stand anywhere
        for value in values:
            for text, anywhere in forms(value).items():
                texts[text] = anywhere or texts.get(text, False)
        self.needles = tuple(sorted({_bytes(text) for text in texts}, key=len, reverse=True))
        self.longest = max(map(len, texts), default=0)
        self.beginnings = frozenset(text[:end] for text in texts for end in range(1, len(text)))
        self.short = tuple(needle for needle in self.needles if len(needle) < 2 * _WORD - 1)
        long = [needle for needle in self.needles if len(needle) >= 2 * _WORD - 1]
        wide = bool(long) and len(long[-1]) >= 2 * _LONG_WORD - 1
        self.width = _LONG_WORD if wide else _WORD
        self.type: Literal["Q", "I"] = "Q" if wide else "I"
        self.words = frozenset(word for needle in long for word in _words(needle, self.width))
        patterns = [_pattern(text, anywhere) for text, anywhere in sorted(texts.items(), key=_longest_first)]
        self.in_text = re.compile("|".join(patterns))
        self.in_bytes = re.compile(b"|".join(_bytes(pattern) for pattern in patterns))


class Scrubber:
    """Finds and hides a set of secret values. Thread-safe; :meth:`update` swaps the set at once."""

    def __init__(self, values: Iterable[str | Secret] = ()) -> None:
        self._index = _Index(())
        self.update(values)

    def update(self, values: Iterable[str | Secret]) -> None:
        """Hide these values, and no others, from now on. Takes some 0.1 ms a value."""
        self._index = _Index({value.reveal() if isinstance(value, Secret) else value for value in values})

    def found_in(self, data: bytes) -> bool:
        """Whether any form of any secret is in ``data`` (UTF-8 or binary). Never misses what it seeks.

        For secrets of 4 to 7 characters it may say yes where :meth:`scrub`, which looks at their neighbours,
        then leaves everything as it is.
        """
        index = self._index
        if not index.needles:
            return False
        for needle in index.short:
            if needle in data:
                return True
        if index.words.isdisjoint(memoryview(data[: len(data) & -index.width]).cast(index.type)):
            return False
        return any(needle in data for needle in index.needles)

    def unfinished(self, text: str) -> int:
        """How many characters at the end of ``text`` may be the beginning of a secret whose rest is still to come."""
        beginnings = self._index.beginnings
        for length in range(min(len(text), self._index.longest - 1), 0, -1):
            if text[-length:] in beginnings:
                return length
        return 0

    def scrub_text(self, text: str) -> str:
        """The text with every secret replaced by ``•••``."""
        return self._index.in_text.sub(MASK, text) if self.found_in(_bytes(text)) else text

    def scrub_bytes(self, data: bytes) -> bytes:
        """The bytes with every secret replaced by ``•••`` in UTF-8 (so their length changes)."""
        return self._index.in_bytes.sub(MASK.encode(), data) if self.found_in(data) else data

    def scrub(self, value: Any) -> Any:
        """A JSON-like value (also bytes, tuples and sets) with every secret in it hidden, keys included.

        Nothing that was given is changed; a set comes back frozen.
        A number whose digits are a secret is replaced by the text ``•••``; so is an object of another type whose
        ``str`` shows a secret. Never raises, whatever it is given.
        """
        return self._clean(value, _DEEPEST)

    def _clean(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.scrub_text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            return self._clean_inside(value, depth - 1) if depth else MASK
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.scrub_bytes(bytes(value))
        return self._opaque(value)

    def _clean_inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {self._clean(key, depth): self._clean(item, depth) for key, item in value.items()}
        items = [self._clean(item, depth) for item in value]
        if isinstance(value, list):
            return items
        return tuple(items) if isinstance(value, tuple) else frozenset(items)

    def _opaque(self, value: Any) -> Any:
        try:
            shown = str(value)
        except Exception:  # a foreign __str__ may do anything; what cannot be looked at is not let through
            return MASK
        return value if self.scrub_text(shown) is shown else MASK


class ScrubFilter(logging.Filter):
    """Hides secrets in log records. Put it on every handler: a logger's filters miss its children's records."""

    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__()
        self._scrubber = scrubber

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record in place; always True."""
        self._clean_message(record)
        self._clean_traceback(record)
        for name in vars(record).keys() - _OF_EVERY_RECORD:
            setattr(record, name, self._scrubber.scrub(getattr(record, name)))
        return True

    def _clean_message(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: logging's own complaint would print them to stderr
            record.msg, record.args = f"{record.msg!r} was logged with arguments that do not fit it", ()
            message = record.msg
        if (cleaned := self._scrubber.scrub_text(message)) is not message:
            record.msg, record.args = cleaned, ()

    def _clean_traceback(self, record: logging.LogRecord) -> None:
        clean = self._scrubber.scrub_text
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text and (cleaned := clean(record.exc_text)) is not record.exc_text:
            # Without exc_info no handler can format the traceback again from the exception itself.
            record.exc_text, record.exc_info = cleaned, None
        if record.stack_info:
            record.stack_info = clean(record.stack_info)


def _words(needle: bytes, width: int) -> Iterable[int]:
    """The words one of which any occurrence shows, aligned; from its end, for many secrets begin alike."""
    first = len(needle) - 2 * width + 1
    return (int.from_bytes(needle[at : at + width], sys.byteorder) for at in range(first, first + width))


def _pattern(text: str, anywhere: bool) -> str:
    literal = re.escape(text)
    return literal if anywhere else f"(?<![0-9A-Za-z]){literal}(?![0-9A-Za-z])"


def _longest_first(item: tuple[str, bool]) -> int:
    return -len(item[0])


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
