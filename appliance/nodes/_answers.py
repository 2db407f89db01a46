"""Showing an answer while it is made: the text inside ``{"answer": "…"}``, taken out of JSON that is not whole yet."""

from __future__ import annotations

import re

_HEAD = re.compile(r'\s*\{\s*"answer"\s*:\s*"')
_NO_ANSWER = re.compile(r'\s*\{\s*"(?!a|"?$)|\s*[^\s{]')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class AnswerText:
    """Takes a reply piece by piece and gives the pieces of its answer; nothing for a reply that is a call."""

    def __init__(self) -> None:
        self._raw = ""
        self._began = False
        self._over = False
        self.given = False

    def feed(self, piece: str) -> str:
        """What of the answer's text became readable with this piece."""
        if self._over:
            return ""
        self._raw += piece
        if not self._began:
            head = _HEAD.match(self._raw)
            if head is None:
                self._over = len(self._raw) > 64 or _NO_ANSWER.match(self._raw) is not None
                return ""
            self._began, self._raw = True, self._raw[head.end() :]
        text = self._decode()
        self.given = self.given or bool(text)
        return text

    def _decode(self) -> str:
        """The characters that are whole; an escape that is cut in two waits for its rest (RFC 8259, section 7)."""
        found: list[str] = []
        raw, at = self._raw, 0
        while at < len(raw):
            letter = raw[at]
            if letter == '"':
                self._over = True
                break
            if letter != "\\":
                found.append(letter)
                at += 1
                continue
            size = 6 if raw[at + 1 : at + 2] == "u" else 2
            if size == 6 and raw[at + 2 : at + 3] in {"d", "D"} and raw[at + 3 : at + 4] in set("89abAB"):
                size = 12
            if at + size > len(raw):
                break
            found.append(_escaped(raw[at : at + size]))
            at += size
        self._raw = raw[at:]
        return "".join(found)


def _escaped(text: str) -> str:
    if text[1] != "u":
        return _ESCAPES.get(text[1], "")
    try:
        units = [int(text[start + 2 : start + 6], 16) for start in range(0, len(text), 6)]
    except ValueError:
        return "\ufffd"
    return b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be", "replace")
