"""What the host's server asks of a loaded language model, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct


class Ask(Struct, frozen=True, kw_only=True):
    """One generation. ``messages`` as in OpenAI's chat format (pictures as ``data:`` URLs), or ``prompt`` as it is.

    ``schema`` (JSON Schema) or ``grammar`` (GBNF) binds the answer. The first ``shared`` messages are the same at every
    call of their kind.
    """

    messages: Sequence[dict[str, Any]] = ()
    prompt: str | None = None
    schema: dict[str, Any] | None = None
    grammar: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    shared: int = 0
    priority: int = 0
    adapter: str = ""


class Answer(Struct, frozen=True, kw_only=True):
    """How a generation ended: ``finish`` is ``stop``, ``length`` or ``cancelled``. Times in seconds since submitted:
    ``began`` when its work began, ``first`` at the first token, ``seconds`` at the end.
    """

    text: str
    finish: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    began: float
    first: float
    seconds: float


class Ticket(Protocol):
    """A generation under way."""

    def cancel(self) -> None:
        """End it within 0.3 s, in the middle of a prompt too. Safe from any thread; twice is fine."""


class Language(Protocol):
    """One loaded language model with a thread of its own. ``FlowError`` for what it cannot do, never a crash."""

    def submit(
        self, ask: Ask, on_text: Callable[[str], None], on_end: Callable[[Answer | None, Exception | None], None]
    ) -> Ticket:
        """Queue a generation. ``on_text`` and then once ``on_end`` are called on the model's thread, and must be
        quick. Raises ``ConfigError`` at once for a prompt longer than the context or a schema that no grammar can
        express, ``Busy`` past the queue's bound.
        """

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of length 1; waits. Raises ``NodeError`` where the model makes none."""

    def count(self, text: str) -> int:
        """Tokens of a text."""

    def describe(self) -> dict[str, Any]:
        """Name, context (tokens), bytes in memory, threads, what is queued, kept prefixes, speeds (tokens/s)."""

    def close(self) -> None:
        """Cancel what is under way, write what is to be kept, free the memory. Twice is fine."""
