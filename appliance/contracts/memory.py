"""Episodic memory: what ``ctx.memory`` offers, to remember what happened and how it ended, and to recall it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct


class Episode(Struct, frozen=True, kw_only=True):
    """One thing that is remembered.

    ``outcome`` is how it ended, in the flow's own word. ``time`` is Unix seconds (UTC), when it was remembered;
    ``expires`` when it is forgotten. A recall adds ``score`` (0 to 1) and what it is made of: ``meaning`` (None where
    no vectors could be compared), ``words`` and ``recency``, each 0 to 1.
    """

    id: int
    text: str
    outcome: str = ""
    tags: list[str] = []
    data: Any = None
    flow: str = ""
    run: str = ""
    time: float
    expires: float | None = None
    score: float = 0.0
    meaning: float | None = None
    words: float = 0.0
    recency: float = 0.0


class Memory(Protocol):
    """The memory of a step's workspace. Works by words alone where there is no model for embeddings.

    Cancelling an await leaves the memory whole. All raise ``NodeError`` (retryable) where the disk refuses, and
    ``ConfigError`` for what can never be kept.
    """

    async def remember(
        self,
        text: str,
        *,
        key: str,
        outcome: str = "",
        tags: Sequence[str] = (),
        data: Any = None,
        lifetime: float | None = None,
        keep: int = 20_000,
    ) -> int:
        """Keep an episode for ``lifetime`` seconds (None: for ever); returns its id once it is on disk.

        Under a ``key`` one episode is kept: the same again changes nothing. Of more than ``keep`` in the workspace
        the oldest go. Secrets are taken out of ``text`` and ``data`` (JSON).
        """

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        outcome: str = "",
        only: bool = False,
        tags: Sequence[str] = (),
        flow: str = "",
        since: float | None = None,
        least: float = 0.0,
    ) -> list[Episode]:
        """The episodes that fit best, best first; without a ``query`` the newest.

        Those that ended with ``outcome`` are preferred, or with ``only`` they are the only ones. All of ``tags`` are
        on each; ``since`` in Unix seconds; none has a score below ``least``.
        """

    async def forget(
        self,
        *,
        ids: Sequence[int] = (),
        before: float | None = None,
        outcome: str = "",
        tags: Sequence[str] = (),
        flow: str = "",
        keep: int | None = None,
    ) -> int:
        """Forget what all of the given fit (or all but the newest ``keep`` of it); returns how many."""
