"""This engine and those that it is paired with, as a step sees them: ``ctx.engines``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Engines(Protocol):
    """Names of engines, and events to them. A name is what the engine is called here."""

    def called(self, wanted: Sequence[str]) -> list[str]:
        """The engines that are meant, each once: by a name; ``here``; ``all`` that can be asked now, this one
        included; ``others``; or all that have something (``model:NAME``, ``device:NAME``).

        A name that is paired and away is in the list too. Raises ``ConfigError`` for a name that nobody has.
        """

    def emit(self, topic: str, payload: Any, to: Sequence[str]) -> list[str]:
        """Send an event; returns to whom. It goes to the outbox together with the step's end, and from there to each
        engine once, when that is there. ``to`` as for :meth:`called`, but ``all`` and ``others`` are all paired ones.

        Raises ``ConfigError`` for a name that nobody has, and for a payload over 2 MB.
        """
