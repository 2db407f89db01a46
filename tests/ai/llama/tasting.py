"""What a grammar lets through: a random writer who is bound to it, and a reader who says whether a text fits."""

from __future__ import annotations

import contextlib

import numpy as np

from appliance.ai.host.llama.constraint import Alphabet, Constraint
from appliance.ai.host.llama.native import Grammar, Model
from appliance.ai.host.llama.sampling import Choice


def write(model: Model, alphabet: Alphabet, grammar: str, seed: int, most: int = 400) -> str | None:
    """A random text of the grammar; None if it is not whole after ``most`` tokens.

    Short tokens and what closes something are likelier, so that it comes to an end.
    """
    random = np.random.default_rng(seed)
    choice = Choice(temperature=1.0, seed=seed)
    said = bytearray()
    ending = np.zeros(model.vocabulary, np.float32)
    for token in range(model.vocabulary):
        piece = model.piece(token)
        ending[token] = 3.0 * piece.startswith((b'"', b"}", b"]")) - len(piece)
    ending[alphabet.ends] = 6.0
    with contextlib.closing(Constraint(Grammar(model, grammar), alphabet, model.piece)) as constraint:
        for step in range(most):
            scores = random.normal(0.0, 2.0, model.vocabulary).astype(np.float32) + ending * (1 + step / 50)
            token = constraint.choose(scores, choice)
            if model.ends(token):
                return said.decode()
            constraint.accept(token)
            said += model.piece(token)
            if constraint.is_done():
                return said.decode()
    return None


def fits(model: Model, alphabet: Alphabet, grammar: str, text: str) -> bool:
    """Whether the grammar lets exactly this text through."""
    with contextlib.closing(Grammar(model, grammar)) as state:
        for token in model.tokenize(text, begin=False, special=False):
            if not state.allowed(np.array([token], np.int32))[0]:
                return False
            state.accept(token)
        return bool(state.allowed(alphabet.ends).any())
