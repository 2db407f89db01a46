"""The kernel's side of the memory: ``ctx.memory`` for every step, and what others may ask over the socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.ai.memory.episodes import Episodes, Place
from appliance.ai.memory.store import EpisodeStore, Wanted
from appliance.contracts import ConfigError, Episode, FlowError, Models
from appliance.kernel.params import arguments
from appliance.kernel.server import Handler, Params, Reply

if TYPE_CHECKING:
    from appliance.kernel.context import StepContext

Spawned = Callable[[Coroutine[Any, Any, Any]], Future[Any]]
_Text = Annotated[str, Meta(max_length=4000)]


class Asked(Struct, kw_only=True):
    """The parameters of ``memory_recall`` and ``memory_forget``; ``before`` and ``since`` in Unix seconds."""

    workspace: Annotated[str, Meta(max_length=63)]
    query: _Text = ""
    ids: Annotated[list[int], Meta(max_length=500)] = []
    outcome: _Text = ""
    tags: Annotated[list[_Text], Meta(max_length=20)] = []
    flow: _Text = ""
    since: float | None = None
    before: float | None = None
    below: int | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    keep: Annotated[int, Meta(ge=0)] | None = None

    def wanted(self) -> Wanted:
        """Which episodes these are."""
        return Wanted(
            workspace=self.workspace,
            ids=self.ids,
            outcome=self.outcome,
            tags=self.tags,
            flow=self.flow,
            since=self.since,
            before=self.before,
        )


class Within(Struct, kw_only=True):
    """The parameters of ``memory_summary``."""

    workspace: Annotated[str, Meta(max_length=63)]


class MemoryService:
    """The engine's memory. ``clean`` takes secrets out, ``models`` are for work that is no step's."""

    def __init__(
        self,
        data: Path,
        *,
        sync: bool,
        clean: Callable[[Any], Any],
        models: Callable[[], Models],
        wall: Callable[[], float],
    ) -> None:
        self._store = EpisodeStore(data, sync=sync)
        self._models = models
        self.episodes = Episodes(self._store, clean, models, wall, time.monotonic)

    def for_step(self, ctx: StepContext) -> StepMemory:
        """The memory as one step has it: that of its workspace."""
        return StepMemory(self.episodes, ctx)

    def close(self) -> None:
        """Let go of the file. Twice is fine."""
        self._store.close()

    # --- for the gateway and the command line ----------------------------------------------------------

    def methods(self, spawn: Spawned) -> dict[str, Handler]:
        """By name; ``spawn`` runs a coroutine on the engine's loop."""

        def handler(work: Callable[[Params], Coroutine[Any, Any, Any]]) -> Handler:
            return lambda params, reply: _answer(spawn(work(params)), reply)

        return {
            "memory_recall": handler(self._recall),
            "memory_forget": handler(self._forget),
            "memory_summary": handler(self._summary),
        }

    async def _recall(self, params: Params) -> Any:
        asked = arguments(params, Asked)
        if asked.query.strip():
            found = await self.episodes.recall(asked.wanted(), self._models(), asked.query, asked.limit, "", 0.0)
        else:
            found = await self.episodes.newest(asked.wanted(), asked.limit, asked.below)
        return msgspec.to_builtins(found)

    async def _forget(self, params: Params) -> Any:
        asked = arguments(params, Asked)
        return {"forgotten": await self.episodes.forget(asked.wanted(), asked.keep)}

    async def _summary(self, params: Params) -> Any:
        return await self.episodes.summary(arguments(params, Within).workspace)


def _answer(future: Future[Any], reply: Reply) -> None:
    def landed(done: Future[Any]) -> None:
        try:
            reply.ok(done.result())
        except (CancelledError, asyncio.CancelledError):
            reply.error(FlowError("the engine is stopping"))
        except Exception as exc:
            reply.error(exc)

    future.add_done_callback(landed)


class StepMemory:
    """Implements :class:`appliance.contracts.Memory`."""

    def __init__(self, episodes: Episodes, ctx: StepContext) -> None:
        self._episodes = episodes
        self._ctx = ctx

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
        ctx = self._ctx
        place = Place(ctx.workspace, ctx.flow, ctx.run)
        return await self._episodes.remember(place, ctx.models, text, key, outcome, tags, data, lifetime, keep)

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
        wanted = Wanted(
            workspace=self._ctx.workspace, outcome=outcome if only else "", tags=tags, flow=flow, since=since
        )
        return await self._episodes.recall(wanted, self._ctx.models, query, limit, outcome, least)

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
        if not (ids or before is not None or outcome or tags or flow or keep is not None):
            raise ConfigError("say what is to be forgotten; all of it is `keep: 0`")
        wanted = Wanted(workspace=self._ctx.workspace, ids=ids, before=before, outcome=outcome, tags=tags, flow=flow)
        return await self._episodes.forget(wanted, keep)
