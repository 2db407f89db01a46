"""The regular expressions of JSON Schema (``pattern``) as grammar rules for the inside of a JSON string. Pure.

What can be told of a finished text while it is written is understood: characters, classes, groups, alternatives,
repetitions, ``^`` at the beginning and ``$`` at the end. Looking around and back references cannot. The dialect is
that of ECMA-262; ``.``, ``\\s`` and negated classes stand for what a JSON string may hold without escapes.
"""

from __future__ import annotations

import string
from typing import NamedTuple

#: Written in a string as they are: all but quotes, backslash and control characters.
_BARRED = '"\\\\\\x00-\\x1F\\x7F'
#: How characters that must be escaped are written in JSON.
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_NEGATED = {"D": "0-9", "W": "A-Za-z0-9_", "S": " "}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_MOST = 1000


class Pattern(NamedTuple):
    """GBNF, and how many characters it makes at least and at most (None: any number)."""

    rule: str
    least: int
    most: int | None


class Unsupported(ValueError):
    """What the pattern asks for cannot be told while the text is written."""


def convert(pattern: str) -> Pattern:
    """The grammar of the texts in which ``pattern`` is found. ``Unsupported`` says what cannot be done."""
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> Pattern:
        found = self._alternatives(top=True)
        if self._at < len(self._pattern):
            raise Unsupported(f"there is an unmatched ) at character {self._at + 1}")
        return found

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        if self._at >= len(self._pattern):
            raise Unsupported("it ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _alternatives(self, *, top: bool = False) -> Pattern:
        found = [self._sequence(top=top)]
        while self._peek() == "|":
            self._at += 1
            found.append(self._sequence(top=top))
        if len(found) == 1:
            return found[0]
        most = [one.most for one in found]
        return Pattern(
            f"({' | '.join(one.rule for one in found)})",
            min(one.least for one in found),
            None if None in most else max(one or 0 for one in most),
        )

    def _sequence(self, *, top: bool) -> Pattern:
        """At the top a missing ``^`` or ``$`` means that anything may stand before or behind."""
        parts: list[Pattern] = []
        anything = Pattern(f"[^{_BARRED}]*", 0, None)
        if top and self._peek() == "^":
            self._at += 1
        elif top:
            parts.append(anything)
        ended = False
        while (character := self._peek()) and character not in "|)":
            if character == "$" and top and self._pattern[self._at + 1 : self._at + 2] in ("", "|"):
                self._at += 1
                ended = True
            else:
                parts.append(self._repeated(self._atom()))
        if top and not ended:
            parts.append(anything)
        rule = " ".join(part.rule for part in parts) or '""'
        most = [part.most for part in parts]
        least = sum(part.least for part in parts)
        return Pattern(rule, least, None if None in most else sum(one or 0 for one in most))

    def _repeated(self, atom: Pattern) -> Pattern:
        sign = self._peek()
        if sign not in ("*", "+", "?", "{"):
            return atom
        self._at += 1
        if sign == "{":
            least, most = self._bounds()
        else:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        if self._peek() == "?":  # lazy or not, the same texts match
            self._at += 1
        if self._peek() in ("*", "+", "{"):
            raise Unsupported(f"there are two repetitions in a row at character {self._at + 1}")
        count = sign if sign != "{" else f"{{{least},{'' if most is None else most}}}"
        longest = None if most is None or atom.most is None else atom.most * most
        if atom.most == 0:
            return Pattern('""', 0, 0)
        if most is None and not atom.least:
            raise Unsupported("it repeats without end what may be empty")
        return Pattern(f"({atom.rule}){count}", atom.least * least, longest)

    def _bounds(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at : max(end, self._at)].partition(",")
        if end < 0 or not low.isdecimal() or (high and not high.isdecimal()):
            raise Unsupported(f"the repetition at character {self._at} cannot be read")
        self._at = end + 1
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > _MOST or (most is not None and most < least):
            raise Unsupported(f"a repetition may count from 0 to {_MOST}, the smaller number first")
        return least, most

    def _atom(self) -> Pattern:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return Pattern(self._class(), 1, 1)
        if character == ".":
            return Pattern(f"[^{_BARRED}]", 1, 1)
        if character == "\\":
            return self._escape()
        if character in "*+?{}^$]":
            raise Unsupported(f"{character!r} at character {self._at} has no meaning there")
        return Pattern(_literal(character), 1, 1)

    def _group(self) -> Pattern:
        if self._peek() == "?":
            kind = self._pattern[self._at : self._at + 2]
            name = self._pattern.find(">", self._at)
            if kind == "?:":
                self._at += 2
            elif kind == "?<" and self._pattern[self._at + 2 : self._at + 3] not in ("=", "!") and name > 0:
                self._at = name + 1
            else:
                raise Unsupported(f"it looks around itself at character {self._at}")
        found = self._alternatives()
        if self._take() != ")":
            raise Unsupported("a ( has no )")
        return Pattern(f"({found.rule})", found.least, found.most)

    def _escape(self) -> Pattern:
        kind = self._peek()
        if kind in _CLASSES:
            self._at += 1
            return Pattern(f"[{_CLASSES[kind]}]", 1, 1)
        if kind in _NEGATED:
            self._at += 1
            return Pattern(f"[^{_NEGATED[kind]}{_BARRED}]", 1, 1)
        return Pattern(_literal(self._escaped()), 1, 1)

    def _escaped(self) -> str:
        """The one character that stands behind a backslash."""
        kind = self._take()
        if kind in _CONTROLS:
            return _CONTROLS[kind]
        if kind in "ux":
            digits = self._pattern[self._at : self._at + (4 if kind == "u" else 2)]
            if len(digits) != (4 if kind == "u" else 2) or set(digits) - set(string.hexdigits):
                raise Unsupported(f"\\{kind} at character {self._at} needs hexadecimal digits")
            self._at += len(digits)
            code = int(digits, 16)
            if 0xD800 <= code <= 0xDFFF:
                raise Unsupported("it names half a character (a surrogate)")
            return chr(code)
        if kind.isalnum():
            raise Unsupported(f"\\{kind} at character {self._at} is not understood")
        return kind

    def _class(self) -> str:
        negated = self._peek() == "^"
        self._at += negated
        parts = [f"^{_BARRED}"] if negated else []
        empty = True
        while (character := self._take()) != "]":
            empty = False
            if character == "\\" and self._peek() in _CLASSES:
                parts.append(_CLASSES[self._take()])
                continue
            if character == "\\" and self._peek() in _NEGATED:
                raise Unsupported(f"a negated class within a class at character {self._at}")
            low = self._escaped() if character == "\\" else character
            high = low
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._take()
                if high == "\\":
                    if self._peek() in (*_CLASSES, *_NEGATED):
                        raise Unsupported(f"a class as the end of a range at character {self._at}")
                    high = self._escaped()
            if high < low:
                raise Unsupported(f"the range {low}-{high} runs backwards")
            parts += self._range(low, high, negated=negated)
        if empty or (not negated and not parts):
            raise Unsupported("an empty class matches nothing")
        return f"[{''.join(parts)}]"

    def _range(self, low: str, high: str, *, negated: bool) -> list[str]:
        """Without what must be escaped in JSON, unless it is the one character that was asked for."""
        if negated:
            return [spelled(low) if low == high else f"{spelled(low)}-{spelled(high)}"]
        found, start = [], ord(low)
        for code in range(ord(low), min(ord(high), 0x7F) + 2):
            past = code > ord(high) or code > 0x7F
            if past or code < 0x20 or code in (0x22, 0x5C, 0x7F):
                if start <= code - 1:
                    found.append(f"{spelled(chr(start))}-{spelled(chr(code - 1))}")
                start = code + 1
            if past:
                break
        if ord(high) > 0x7F:
            found.append(f"{spelled(chr(max(ord(low), 0x80)))}-{spelled(high)}")
        if not found:
            raise Unsupported(f"a class of {low!r} only: write it outside of the brackets")
        return found


def _literal(character: str) -> str:
    """One character as JSON writes it, as a GBNF literal."""
    if character not in _ESCAPED and (ord(character) < 0x20 or ord(character) == 0x7F):
        raise Unsupported(f"the control character {ord(character)} cannot be written")
    return f'"{"".join(map(spelled, _ESCAPED.get(character, character)))}"'


def spelled(character: str) -> str:
    """One character as GBNF writes it, within quotes or brackets."""
    if character.isascii() and character.isalnum():
        return character
    number = ord(character)
    return f"\\x{number:02X}" if number < 0x100 else f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"
