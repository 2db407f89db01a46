"""Asking a loaded model in tests, and waiting for what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from appliance.ai.host.llama import Options
from appliance.ai.host.work import Answer, Ask, Language

#: One thread each: two would wait for each other on a busy machine.
QUICK = {"threads": 1, "prompt_threads": 1}
#: Seconds until an answer that does not come fails the test.
PATIENCE = 50.0


def options(**changed: Any) -> Options:
    """Options for a tiny model."""
    return Options(**{**QUICK, **changed})


class Asked:
    """One generation: ``pieces`` as they come; ``on_text`` is called with each, on the model's thread."""

    def __init__(self, language: Language, ask: Ask, on_text: Callable[[str], None] | None = None) -> None:
        self.pieces: list[str] = []
        self.first = threading.Event()
        self._ended = threading.Event()
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._hook = on_text
        self.ticket = language.submit(ask, self._on_text, self._on_end)

    def _on_text(self, text: str) -> None:
        self.pieces.append(text)
        self.first.set()
        if self._hook is not None:
            self._hook(text)

    def _on_end(self, answer: Answer | None, error: Exception | None) -> None:
        assert not self._ended.is_set(), "told of the end twice"
        self._answer, self._error = answer, error
        self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def answer(self) -> Answer:
        """The whole answer; raises what the model raised."""
        assert self._ended.wait(PATIENCE), "no answer came"
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        assert "".join(self.pieces) == self._answer.text
        return self._answer


def say(language: Language, **asked: Any) -> Answer:
    """Ask and wait."""
    return Asked(language, Ask(**asked)).answer()


def chat(system: str, user: str) -> list[dict[str, str]]:
    """Two messages."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
