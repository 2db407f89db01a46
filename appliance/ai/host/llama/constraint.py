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

#: So many of the best candidates are held against the grammar first: mostly one of them will do.
_FIRST = 64


class Alphabet:
    """A vocabulary by first bytes, so that a grammar can be asked about whole groups of tokens at once.

    A grammar allows a token only if it allows the token's first byte, and for nearly every byte there is a token that
    is that byte alone: those answer for the rest. Control tokens that end nothing are in no group: they are no text.
    """

    def __init__(self, survey: Survey) -> None:
        ends, control, _, firsts, lengths = survey
        #: Tokens that end an answer.
        self.ends: Tokens = np.flatnonzero(ends).astype(np.int32)
        usable = ~ends & ~control & (firsts > 0)
        #: Tokens that no constrained answer has.
        self.silent = frozenset(np.flatnonzero(~usable & ~ends).tolist())
        self._groups = {int(byte): _where(usable & (firsts == byte)) for byte in np.unique(firsts[usable])}
        single = {byte: group[lengths[group] == 1][:1] for byte, group in self._groups.items()}
        self._bytes = [byte for byte, found in single.items() if len(found)]
        self._probes = np.concatenate([np.zeros(0, np.int32), *(single[byte] for byte in self._bytes)])
        lonely = [self._groups[byte] for byte, found in single.items() if not len(found)]
        self._unprobed: Tokens = np.concatenate([np.zeros(0, np.int32), *lonely])

    def candidates(self, grammar: Grammar) -> Tokens:
        """All tokens that the grammar may allow next, by their first byte."""
        open_bytes = grammar.allowed(self._probes)
        groups = [self._groups[byte] for byte, is_open in zip(self._bytes, open_bytes, strict=True) if is_open]
        return np.concatenate([self.ends[grammar.allowed(self.ends)], self._unprobed, *groups])

    def must_end(self, grammar: Grammar) -> bool:
        """Whether the text so far is whole and nothing can follow."""
        if not grammar.allowed(self.ends[:1]).any() or grammar.allowed(self._probes).any():
            return False
        return not grammar.allowed(self._unprobed).any()


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
        found = scores[tokens]
        if choice.greedy and len(tokens) > _FIRST:
            best = np.argpartition(-found, _FIRST)[:_FIRST]
            token = self._among(tokens[best], found[best], choice)
            if token >= 0:
                return token
        token = self._among(tokens, found, choice)
        if token < 0:
            raise NodeError("nothing that this model can write fits the grammar at this point", retryable=False)
        return token

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
