"""Keeping an answer within its grammar, at next to no cost.

Held against every token, llama.cpp's grammar costs 13 ms for a vocabulary of 150,000. Here a token is chosen as if
there were no grammar and that one is checked (20 µs); only a refusal costs more, and even then only tokens whose first
byte may follow are looked at. The grammar reads characters; that the bytes of several tokens make real ones (no
surrogates, none longer than need be) is checked here.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from appliance.ai.host.llama.native import Grammar, Logits, Survey, Tokens
from appliance.ai.host.llama.sampling import Choice
from appliance.contracts import NodeError

#: Where more tokens than these may follow, the choice is tried again first, so often, and then the best few.
_MANY, _TRIES, _BEST = 4096, 8, (512, 8192)


class _Groups:
    """Tokens by one of their bytes. For nearly every byte there is a token that ends with it: it answers for the rest,
    since a grammar that refuses it refuses all that go on from there.
    """

    def __init__(self, tokens: Tokens, data: npt.NDArray[np.uint8], ending: npt.NDArray[np.bool_]) -> None:
        """``data``: of each of the tokens the byte; ``ending``: whether that is its last."""
        self.bytes: list[int] = []
        self.tokens: list[Tokens] = []
        probes, unprobed = [], [np.zeros(0, np.int32)]
        for byte in np.unique(data):
            group, probe = tokens[data == byte], tokens[(data == byte) & ending][:1]
            if len(probe):
                self.bytes.append(int(byte))
                self.tokens.append(group)
                probes.append(probe)
            else:
                unprobed.append(group)
        self.probes: Tokens = np.concatenate([np.zeros(0, np.int32), *probes])
        #: Those that nobody answers for.
        self.unprobed: Tokens = np.concatenate(unprobed)


class Alphabet:
    """A vocabulary by first bytes, large groups by second ones as well, so that a grammar can be asked about whole
    groups of tokens at once. Control tokens that end nothing are in no group: they are no text.
    """

    def __init__(self, survey: Survey) -> None:
        #: Tokens that end an answer.
        self.ends: Tokens = _where(survey.ends)
        usable = ~survey.ends & ~survey.control & (survey.firsts > 0)
        #: Tokens that no constrained answer has.
        self.silent = frozenset(np.flatnonzero(~usable & ~survey.ends).tolist())
        text = _where(usable)
        self._first = _Groups(text, survey.firsts[text], survey.lengths[text] == 1)
        self._second: dict[int, _Groups] = {}
        for byte, group in zip(self._first.bytes, self._first.tokens, strict=True):
            if len(group) > _MANY:
                self._second[byte] = _Groups(group, survey.seconds[group], survey.lengths[group] <= 2)

    def candidates(self, grammar: Grammar) -> Tokens:
        """All tokens that the grammar may allow next, and some more."""
        groups = [self.ends[grammar.allowed(self.ends)], self._first.unprobed]
        for byte, group in _open(self._first, grammar):
            if byte not in self._second:
                groups.append(group)
                continue
            second = self._second[byte]
            groups.append(second.unprobed)
            groups += [part for _, part in _open(second, grammar)]
        return np.concatenate(groups)

    def must_end(self, grammar: Grammar) -> bool:
        """Whether the text so far is whole and nothing can follow."""
        if not grammar.allowed(self.ends[:1]).any() or grammar.allowed(self._first.probes).any():
            return False
        return not grammar.allowed(self._first.unprobed).any()


def _open(groups: _Groups, grammar: Grammar) -> list[tuple[int, Tokens]]:
    """The groups of which the grammar may allow a token."""
    fit = grammar.allowed(groups.probes)
    return [(byte, group) for byte, group, fits in zip(groups.bytes, groups.tokens, fit, strict=True) if fits]


def _where(flags: npt.NDArray[np.bool_]) -> Tokens:
    return np.flatnonzero(flags).astype(np.int32)


class Constraint:
    """Where one answer stands in its grammar. ``piece`` says what a token adds to the text."""

    def __init__(self, grammar: Grammar, alphabet: Alphabet, piece: Callable[[int], bytes]) -> None:
        self._grammar = grammar
        self._alphabet = alphabet
        self._piece = piece
        self._begun = b""

    def choose(self, scores: Logits, choice: Choice) -> int:
        """The choice's own token if it fits, else its choice among those that do. ``NodeError`` if none does."""
        token = choice.pick(scores)
        if self._fits(token):
            return token
        tokens = self._alphabet.candidates(self._grammar)
        if len(tokens) > _MANY and (again := self._again(scores, token, choice)) >= 0:
            return again
        found = scores[tokens]
        for few in _BEST:
            if choice.greedy and len(tokens) > few:
                best = np.argpartition(found, len(found) - few)[-few:]
                token = self._among(tokens[best], found[best], choice)
                if token >= 0:
                    return token
        token = self._among(tokens, found, choice)
        if token < 0:
            raise NodeError("nothing that this model can write fits the grammar at this point", retryable=False)
        return token

    def _again(self, scores: Logits, refused: int, choice: Choice) -> int:
        """The choice without what was refused, a few times; -1 if that was not enough.

        What comes out is chosen among all that fit: who leaves out refused ones one by one meets these with their
        chances unchanged.
        """
        scores = scores.copy()
        for _ in range(_TRIES):
            scores[refused] = -np.inf
            refused = choice.pick(scores)
            if self._fits(refused):
                return refused
        return -1

    def _among(self, tokens: Tokens, scores: Logits, choice: Choice) -> int:
        """The choice among those of ``tokens`` that fit; -1 if none does."""
        fit = self._grammar.allowed(tokens)
        tokens, scores = tokens[fit], scores[fit]
        while len(tokens):
            place = choice.pick(scores)
            if self._is_text(int(tokens[place])):
                return int(tokens[place])
            tokens, scores = np.delete(tokens, place), np.delete(scores, place)
        return -1

    def _fits(self, token: int) -> bool:
        if token in self._alphabet.silent or not self._is_text(token):
            return False
        return bool(self._grammar.allowed(np.array([token], np.int32))[0])

    def _is_text(self, token: int) -> bool:
        """Whether the text stays UTF-8 with this token behind it."""
        data = self._piece(token)
        if not self._begun and data.isascii():
            return True
        data = self._begun + data
        try:
            _, read = codecs.utf_8_decode(data)
        except UnicodeDecodeError:
            return False
        # Python takes the beginning of a surrogate for one of a character; nothing could follow.
        return not (data[read : read + 1] == b"\xed" and data[read + 1 : read + 2] >= b"\xa0")

    def accept(self, token: int) -> None:
        """Go on behind a token that was chosen here and ends nothing."""
        self._grammar.accept(token)
        data = self._begun + self._piece(token)
        _, read = codecs.utf_8_decode(data)
        self._begun = data[read:]

    def is_done(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return not self._begun and self._alphabet.must_end(self._grammar)

    def close(self) -> None:
        """Free the grammar. Twice is fine."""
        self._grammar.close()
