"""The engine seen by its own flows: what ``ctx.overview`` offers."""

from __future__ import annotations

from typing import Any, Protocol


class Overview(Protocol):
    """What a step may see of the engine: its health, and of its own workspace flows, runs and open questions.

    Everything is JSON; times are Unix seconds (UTC).
    """

    async def health(self) -> dict[str, Any]:
        """Whether all is well, in words (``problems``) and figures."""

    async def flows(self) -> list[dict[str, Any]]:
        """The live flows, each with its last run."""

    async def runs(self, *, flow: str = "", state: str = "", limit: int = 20) -> list[dict[str, Any]]:
        """Runs, newest first; of a flow (its id), in a state such as ``failed``. Raises ``ConfigError``."""

    async def waiting(self) -> list[dict[str, Any]]:
        """The questions that wait for a person."""
