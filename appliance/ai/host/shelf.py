"""The models that are loaded: each once, together under a bound of memory, the least recently used gone first.

Lives on the host's event loop; loading and closing, which take seconds, are on threads. A model that works is never
put away: who needs the room waits for it, and after some seconds comes before whoever else wants that model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from appliance.ai.host import files
from appliance.ai.host.errors import InUse, ModelTooLarge, NoModel, Stopping
from appliance.ai.host.files import Found, Kind
from appliance.contracts import Busy

logger = logging.getLogger(__name__)

#: Requests that may wait for models to be loaded.
_MOST_WAITING = 64
#: Seconds for which one that needs the room lets others go on with what is loaded.
_POLITE = 10.0


class Model(Protocol):
    """What every loaded model can do, of whatever kind."""

    def describe(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Loader(Protocol):
    """How models of one kind are loaded. Both raise ``FlowError``."""

    def need(self, found: Found) -> int:
        """Bytes of memory that it will take."""

    def load(self, found: Found, progress: Callable[[float], None]) -> Model:
        """Blocks; tells how far it is, from 0 to 1."""


@dataclass
class Loaded:
    """One model in memory. ``users`` are the requests that it works for now."""

    found: Found
    model: Any
    size: int
    used: float
    users: int = 0
    served: int = 0


@dataclass
class Loading:
    """One model on its way. ``waiting`` requests will use it."""

    found: Found
    need: int = 0
    progress: float = 0.0
    waiting: int = 0
    task: asyncio.Task[Loaded] = field(init=False)


class Shelf:
    """All models of a data folder. ``bound`` and what ``available`` gives are bytes, ``clock`` is monotonic."""

    def __init__(
        self,
        data: Path,
        bound: int,
        loaders: Mapping[Kind, Loader],
        available: Callable[[], int],
        clock: Callable[[], float],
        polite: float = _POLITE,
    ) -> None:
        self.bound = bound
        self.loaded: dict[str, Loaded] = {}
        self.loading: dict[str, Loading] = {}
        self._data = data
        self._loaders = loaders
        self._available = available
        self._clock = clock
        self._polite = polite
        self._one_at_a_time = asyncio.Lock()
        #: Set, and another one in its place, whenever a model was given back or is there at last.
        self._changed = asyncio.Event()
        self._closing = False
        #: The model that has waited for room long enough to go first.
        self._first = ""

    @property
    def busy(self) -> bool:
        """Whether any model works or is being loaded."""
        return bool(self.loading) or any(loaded.users for loaded in self.loaded.values())

    @property
    def used(self) -> int:
        """Bytes that the loaded models take."""
        return sum(loaded.size for loaded in self.loaded.values())

    def find(self, name: str, kind: Kind | None = None) -> Found:
        """The model of that name on the disk. Raises ``NoModel``."""
        found = files.find(self._data, name)
        if found is None:
            there = [name for one in files.look(self._data) if kind in (None, one.kind) for name in one.names]
            raise NoModel(f"there is no model {name!r} here; {_named(there)}")
        if kind is not None and found.kind != kind:
            other = "a language model" if found.kind == "language" else "an ONNX model"
            raise NoModel(f"{name!r} is {other}, which cannot do this")
        return found

    @asynccontextmanager
    async def lease(self, name: str, kind: Kind | None = None) -> AsyncIterator[Any]:
        """The model, loaded if it was not, and kept for as long as this lasts.

        Raises ``NoModel``, ``ModelTooLarge``, ``Busy``, and what loading it raises.
        """
        loaded = await self._take(name, kind)
        try:
            yield loaded.model
        finally:
            self._give_back(loaded)

    async def unload(self, name: str) -> bool:
        """Put a model away; whether it was loaded. Raises ``InUse``."""
        async with self._one_at_a_time:
            loaded = self.loaded.get(name)
            if loaded is None:
                return False
            if loaded.users:
                requests = "1 request" if loaded.users == 1 else f"{loaded.users} requests"
                raise InUse(f"{name!r} is working for {requests}; try again when that is done")
            await self._put_away(loaded)
        return True

    async def close(self) -> None:
        """Put all models away, and load no more. Nobody may use one any more."""
        self._closing = True
        async with self._one_at_a_time:
            for loaded in list(self.loaded.values()):
                await self._put_away(loaded)

    # --- who uses what -----------------------------------------------------------------------------

    async def _take(self, name: str, kind: Kind | None) -> Loaded:
        while self._first not in ("", name):
            await self._changed.wait()
        found = self.find(name, kind)
        loaded = self.loaded.get(name)
        if loaded is not None and (loaded.found.stamp == found.stamp or loaded.users):
            loaded.users += 1
            return loaded
        loading = self.loading.get(name) or self._start(found)
        if sum(one.waiting for one in self.loading.values()) >= _MOST_WAITING:
            raise Busy("too many requests wait for models to be loaded", retry_after=5.0)
        loading.waiting += 1
        try:
            return await asyncio.shield(loading.task)
        except asyncio.CancelledError:
            if loading.task.done() and not loading.task.cancelled() and loading.task.exception() is None:
                self._give_back(loading.task.result())
            else:
                loading.waiting -= 1
            raise

    def _give_back(self, loaded: Loaded) -> None:
        loaded.users -= 1
        loaded.served += 1
        loaded.used = self._clock()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _start(self, found: Found) -> Loading:
        loading = Loading(found)
        loading.task = asyncio.get_running_loop().create_task(self._load(loading))
        loading.task.add_done_callback(_asked)
        self.loading[found.name] = loading
        return loading

    # --- in and out of memory ----------------------------------------------------------------------

    async def _load(self, loading: Loading) -> Loaded:
        found, loader = loading.found, self._loaders[loading.found.kind]

        def progress(share: float) -> None:
            if self._closing:
                raise Stopping("the model host is being stopped; ask again and it is started")
            loading.progress = share

        try:
            async with self._one_at_a_time:
                if (old := self.loaded.get(found.name)) is not None and not old.users:
                    await self._put_away(old)  # its file is another one now
                loading.need = await asyncio.to_thread(loader.need, found)
                await self._make_room(found.name, loading.need)
                model = await asyncio.to_thread(loader.load, found, progress)
                # What a model says of itself leaves out what its library has beside it.
                size = max(loading.need, int(model.describe().get("bytes", 0)))
                # Whoever waits uses it from this moment on, so that nobody can put it away before they come to it.
                loaded = Loaded(found, model, size, self._clock(), loading.waiting)
                self.loaded[found.name] = loaded
                logger.info("loaded %s, %s", found.name, mb(size))
                return loaded
        finally:
            del self.loading[found.name]
            self._first = "" if self._first == found.name else self._first
            self._wake()

    async def _make_room(self, name: str, need: int) -> None:
        """Put away what is not used until there is room for ``need`` bytes. Raises ``ModelTooLarge``."""
        if need > self.bound:
            raise ModelTooLarge(
                f"{name!r} takes {mb(need)} of memory, and models may use {mb(self.bound)} here (setting "
                "models_memory_mb); take a smaller model or a smaller quantization of it"
            )
        began = self._clock()
        while self.used + need > self.bound or need > self._available():
            idle = [loaded for loaded in self.loaded.values() if not loaded.users]
            if idle:
                await self._put_away(min(idle, key=lambda loaded: loaded.used))
            elif not self.loaded:
                raise ModelTooLarge(
                    f"{name!r} takes {mb(need)} of memory, and {mb(self._available())} are free on this machine now",
                    retryable=True,
                )
            else:
                if self._clock() - began >= self._polite:
                    self._first = name
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._polite)

    async def _put_away(self, loaded: Loaded) -> None:
        del self.loaded[loaded.found.name]
        await asyncio.to_thread(loaded.model.close)
        logger.info("put %s away", loaded.found.name)


def mb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 10e6 else f"{size / 1e6:,.1f} MB"


def _named(names: list[str]) -> str:
    if not names:
        return "`flowork models pull` gets one"
    return f"there are {', '.join(names[:20])}{' …' if len(names) > 20 else ''}"


def _asked(task: asyncio.Task[Loaded]) -> None:
    """An error is told to those who wait; there may be none left."""
    if not task.cancelled():
        task.exception()
