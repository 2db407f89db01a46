"""Remembering, recalling and forgetting: texts are embedded where a model can, and found by words where none can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from appliance.ai.memory import score, vectors
from appliance.ai.memory.store import LONGEST_TEXT, EpisodeStore, New, Wanted
from appliance.contracts import ConfigError, Episode, FlowError, Models

logger = logging.getLogger(__name__)

#: Episodes that are looked at closely, of those nearest in meaning and of those with most of the words.
CANDIDATES = 50
#: Times as many where only some of these are wanted.
NARROW = 40
#: Texts that are embedded at once when the model has changed, and characters of each.
BATCH = 16
EMBEDDED_TEXT = 2_000
#: To so many characters a text is cut, by halves, for a model that refuses it: most likely it reads no more.
SHORTEST = 125
#: What servers answer then.
_TOO_LONG = (400, 413, 422)
#: Seconds for which a missing model is not asked for again.
WITHOUT = 60.0


class Place(Struct, frozen=True):
    """Whose memory it is, and which flow and run remember."""

    workspace: str
    flow: str = ""
    run: str = ""


class Episodes:
    """An engine's episodic memory.

    ``clean`` takes secrets out of a value. ``own`` are the models for work that is no step's: embedding again what
    another model had embedded. ``wall`` and ``clock`` are seconds, Unix and monotonic.
    """

    def __init__(
        self,
        store: EpisodeStore,
        clean: Callable[[Any], Any],
        own: Callable[[], Models],
        wall: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._clean = clean
        self._own = own
        self._wall = wall
        self._clock = clock
        self._tables = vectors.Tables(store, clock)
        self._without_until = 0.0
        #: Whether the last text was embedded; nobody is told twice that it was not.
        self._has_vectors: bool | None = None
        self._catching_up: asyncio.Task[None] | None = None

    async def remember(
        self,
        place: Place,
        models: Models,
        text: str,
        key: str,
        outcome: str,
        tags: Sequence[str],
        data: Any,
        lifetime: float | None,
        keep: int,
    ) -> int:
        """See :meth:`appliance.contracts.Memory.remember`."""
        text, outcome, tags, data = self._clean([text.strip(), outcome, [tag.strip() for tag in tags], data])
        if not text:
            raise ConfigError("text: there is nothing to remember")
        if len(text) > LONGEST_TEXT:
            raise ConfigError(f"text: has {len(text):,} characters; an episode keeps at most {LONGEST_TEXT:,}")
        if any("\n" in tag or not tag for tag in tags):
            raise ConfigError("tags: are single lines that are not empty")
        now = self._wall()
        new = New(
            workspace=place.workspace,
            key=key,
            text=text,
            outcome=outcome,
            tags=tags,
            data=data,
            flow=place.flow,
            run=place.run,
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
        number, fresh = await asyncio.to_thread(self._store.add, new, keep)
        # The episode is on disk: its vector can be made now or later, and again after a crash in between.
        if fresh and (found := await self._vector(models, text)) is not None:
            model, vector = found
            await self._keep_vectors(model, [(number, vectors.pack(vector))])
        return number

    async def recall(
        self, wanted: Wanted, models: Models, query: str, limit: int, outcome: str, least: float
    ) -> list[Episode]:
        """See :meth:`appliance.contracts.Memory.recall`; ``outcome`` is the preferred one."""
        now = self._wall()
        if not query.strip():
            return await asyncio.to_thread(self._store.newest, wanted, now, limit)
        found = await self._vector(models, query)
        model, vector = found or ("", None)
        best = await asyncio.to_thread(self._search, wanted, query, model, vector, now, outcome, limit)
        if vector is not None:
            self._catch_up(model)
        return [episode for episode in best if episode.score > 0 and episode.score >= least][:limit]

    def _search(
        self,
        wanted: Wanted,
        query: str,
        model: str,
        vector: list[float] | None,
        now: float,
        outcome: str,
        limit: int,
    ) -> list[Episode]:
        """All that may fit, best first. Blocks."""
        workspace = wanted.workspace
        words, counts = self._store.words(workspace, query)
        weights = score.word_weights(counts, self._store.count(workspace))
        shares = {number: score.word_share(found, weights) for number, found in words.items()}
        narrow = bool(wanted.outcome or wanted.tags or wanted.flow or wanted.since is not None)
        most = max(CANDIDATES, 2 * limit) * (NARROW if narrow else 1)
        worded = sorted(shares, key=shares.__getitem__, reverse=True)[:most]
        near = {} if vector is None else self._tables.compare(workspace, model, vector, most, worded)
        found = self._store.get(sorted({*worded, *near}), wanted, now)
        told = [
            score.scored(episode, near.get(number), shares.get(number, 0.0), now, outcome)
            for number, episode in found.items()
        ]
        return sorted(told, key=lambda episode: (-episode.score, -episode.id))

    async def newest(self, wanted: Wanted, limit: int, below: int | None) -> list[Episode]:
        """What there is, newest first."""
        return await asyncio.to_thread(self._store.newest, wanted, self._wall(), limit, below)

    async def forget(self, wanted: Wanted, keep: int | None) -> int:
        """See :meth:`appliance.contracts.Memory.forget`."""
        gone = await asyncio.to_thread(self._store.forget, wanted, keep)
        self._tables.forget(gone)
        return len(gone)

    async def summary(self, workspace: str) -> dict[str, Any]:
        """See :meth:`EpisodeStore.summary`."""
        return await asyncio.to_thread(self._store.summary, workspace)

    # --- vectors ---------------------------------------------------------------------------------------

    async def _vector(self, models: Models, text: str) -> tuple[str, list[float]] | None:
        """A text's vector and who made it; None where there is no model, or none that answers."""
        if self._clock() < self._without_until or not vectors.usable():
            return None
        try:
            model, (vector,) = await _embedded(models, [text])
        except FlowError as exc:
            self._without_until = self._clock() + WITHOUT
            if self._has_vectors is not False:
                logger.info("the memory goes by words alone until a model embeds texts: %s", exc.message)
            self._has_vectors = False
            return None
        self._has_vectors = True
        return model, vector

    async def _keep_vectors(self, model: str, packed: list[tuple[int, bytes]]) -> None:
        await asyncio.to_thread(self._store.set_vectors, model, packed)
        self._tables.added(min(number for number, _ in packed))

    def _catch_up(self, model: str) -> None:
        """Embed in the background what has no vector of the model that is in use now."""
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.get_running_loop().create_task(self._embed_rest(model))

    async def _embed_rest(self, model: str) -> None:
        try:
            while rest := await asyncio.to_thread(self._store.without, model, BATCH):
                now, made = await _embedded(self._own(), [text for _, text in rest])
                if now != model:
                    return  # it has changed once more; the next recall goes on
                packed = [(number, vectors.pack(one)) for (number, _), one in zip(rest, made, strict=True)]
                await self._keep_vectors(model, packed)
        except FlowError as exc:
            logger.info("not all of the memory could be embedded again: %s", exc.message)

    async def idle(self) -> None:
        """Wait until nothing is embedded in the background any more."""
        if self._catching_up is not None:
            await asyncio.wait([self._catching_up])


async def _embedded(models: Models, texts: Sequence[str]) -> tuple[str, list[list[float]]]:
    """The model that is in use and each text's vector; of a text that is too long for it that of the beginning."""
    longest = EMBEDDED_TEXT
    while True:
        try:
            made = await models.embed([text[:longest] for text in texts])
        except FlowError as exc:
            status = exc.detail.get("status") if isinstance(exc.detail, dict) else None
            if status not in _TOO_LONG or longest <= SHORTEST:
                raise
        else:
            return made.model, made.vectors
        if len(texts) > 1:  # which one it was is not told
            found = [await _embedded(models, [text]) for text in texts]
            return found[-1][0], [vector for _, (vector,) in found]
        longest //= 2
