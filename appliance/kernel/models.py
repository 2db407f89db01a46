"""The kernel's side of the models: puts the gateway together, and is ``ctx.models`` for every step."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.ai.gateway.accounts import Accounts, Budgets, Who
from appliance.ai.gateway.cache import Cache
from appliance.ai.gateway.gate import EMBED, Gate, Watching
from appliance.ai.gateway.names import Upstreams
from appliance.ai.gateway.passage import Passages
from appliance.ai.gateway.prices import Prices
from appliance.contracts import (
    Blobs,
    ChatReply,
    ChatRequest,
    ConfigError,
    Inference,
    Limits,
    ModelFacts,
    PeerModels,
    Provider,
    StreamingHttp,
    Vectors,
)
from appliance.contracts.peers import PeerAway
from appliance.kernel.state import GONE
from appliance.kernel.streams import Streams
from appliance.security.roles import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from appliance.kernel.context import Services, StepContext
    from appliance.store.settings import Settings

#: The model host's socket in the data folder.
HOST = "models.sock"
#: What the files of models call a task, where that is not what the gateway calls it.
_TASKS = {"embedding": EMBED}
_MEGABYTE = 1_000_000
#: Of the child that looks up a price; it needs no network.
_LOOK_UP = Limits(timeout=20.0, cpu=10.0, memory_mb=512)


class NoPeerModels:
    """For a kernel without links."""

    def offered(self) -> Sequence[tuple[str, ModelFacts]]:
        return ()

    async def ask(
        self, peer: str, method: str, body: Any, timeout: float, on_item: Callable[[Any], None] | None = None
    ) -> Any:
        raise PeerAway(f"{peer} cannot be asked: this kernel has no links to other engines")


class ModelService:
    """All that asks a model in this kernel goes through here. ``data`` is the engine's own folder."""

    gate: Gate

    def __init__(
        self,
        data: Path,
        services: Services,
        http: StreamingHttp,
        streams: Streams,
        aside: Callable[[Callable[[], Any]], Future[Any]],
    ) -> None:
        """``aside`` does something that blocks on another thread."""
        self._aside = aside
        self._data = data
        self._services = services
        self._http = http
        services.anew = streams.anew
        #: The models of paired engines.
        self.peers: PeerModels = NoPeerModels()
        self.accounts = Accounts(self.today)
        self.passages = Passages(self.accounts, Prices(self._look_up))
        self._cache = Cache(0)
        self._default_embed = ""
        self._host_bounds: tuple[int, float] | None = None

    def load(self, settings: Settings, providers: Mapping[str, Provider[Any]]) -> None:
        """Take up the settings."""
        upstreams = Upstreams(providers, settings.model_upstreams)
        self.passages.update(upstreams)
        self._cache.resize(int(settings.model_cache_mb * _MEGABYTE))
        self._default_embed = settings.model_embed
        self.accounts.upstreams = upstreams.known
        self.accounts.budgets = Budgets(
            day=settings.model_budget_day,
            month=settings.model_budget_month,
            flow_day=settings.model_budget_flow,
            tokens_day=settings.model_tokens_day,
        )
        self.gate = Gate(upstreams, settings.model_default, self.passages, self._cache, self._reach)
        before, self._host_bounds = self._host_bounds, (settings.models_memory_mb, settings.models_idle_minutes)
        if before not in (None, self._host_bounds):
            from appliance.ai.library.host import leave

            self._aside(lambda: leave(self._data))

    def for_step(self, ctx: StepContext) -> BoundModels:
        """The models as one step sees them; that one had to be asked again is kept with the step."""

        def anew(why: str) -> None:
            ctx.anew()
            ctx.log(why, "warning")

        who = Who(flow=ctx.flow_number, node=ctx.node, priority=ctx.priority, budget=ctx.model_budget)
        return BoundModels(self, who, anew)

    def for_work(self, name: str, anew: Callable[[str], None] = lambda why: None) -> BoundModels:
        """The models for work that is no flow's; what it uses is kept under ``name``.

        ``anew`` is told why an answer begins again.
        """
        return BoundModels(self, Who(flow=0, node=name), anew)

    async def embed(self, who: Who, texts: Sequence[str], model: str, timeout: float) -> Vectors:
        """Vectors by a name or the default."""
        return await self.gate.embed(who, texts, model, self._default_embed, timeout)

    # --- accounts --------------------------------------------------------------------------------------

    def load_accounts(self, kept: Mapping[int, Mapping[str, Any]]) -> None:
        """Take up what :meth:`changes` gave, by its numbers."""
        for number, days in kept.items():
            self.accounts.load(-1 - number, days)

    def changes(self, flow: int) -> dict[str, Any]:
        """What is to be kept of a flow's account since the last time, as durable values of :func:`account_of`."""
        return {day: GONE if rows is None else rows for day, rows in self.accounts.take(flow).items()}

    # --- what the gateway is made of -------------------------------------------------------------------

    def today(self) -> datetime.date:
        """The date where the engine is."""
        return datetime.datetime.fromtimestamp(self._services.wall(), self._services.timezone).date()

    def _look_up(self, url: str, model: str) -> Awaitable[Any]:
        arguments = {"url": url, "model": model}
        return self._services.sandbox.call("appliance.nodes._prices", "table", arguments, _LOOK_UP)

    def _reach(self, who: Who) -> KernelReach:
        return KernelReach(
            self._services, self._http, self._data / HOST, who.priority, self._installed, lambda: self.peers
        )

    async def _installed(self) -> list[ModelFacts]:
        from appliance.ai.library.cards import all_models

        views = await asyncio.wrap_future(self._aside(lambda: all_models(self._data)))
        return [
            ModelFacts(
                name=view.name,
                provider="",
                task=_TASKS.get(view.kind, view.kind),
                context=view.context,
                images=view.images,
            )
            for view in views
            if not view.trouble
        ]


def account_of(flow: int) -> int:
    """The number under which a flow's account is kept among the durable values: no flow has it, not even flow 0."""
    return -1 - flow


class _Shown:
    """Implements the gate's ``Watching``."""

    def __init__(self, on_text: Callable[[str], None] | None, anew: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.anew = anew

    def piece(self, text: str) -> None:
        if self._on_text is not None:
            self._on_text(text)


class KernelReach:
    """Implements :class:`appliance.contracts.Reach`."""

    def __init__(
        self,
        services: Services,
        http: StreamingHttp,
        host: Path,
        priority: int,
        installed: Callable[[], Awaitable[Sequence[ModelFacts]]],
        peers: Callable[[], PeerModels],
    ) -> None:
        self._installed = installed
        self._peers = peers
        self._services = services
        self.http = http
        self.host = host
        self.priority = priority

    def edition(self, model: str) -> str:
        from appliance.ai.library.cards import edition

        return edition(self.host.parent, model)

    @property
    def blobs(self) -> Blobs:
        return self._services.blobs

    @property
    def peers(self) -> PeerModels:
        return self._peers()

    async def installed(self) -> Sequence[ModelFacts]:
        return await self._installed()

    def secret(self, name: str) -> str:
        found = self._services.secrets.get(DEFAULT_WORKSPACE, {}).get(name)
        if found is None:
            raise ConfigError(f"there is no secret {name!r} in the workspace {DEFAULT_WORKSPACE!r}")
        return found


class BoundModels:
    """Implements :class:`appliance.contracts.Models` for one step, or for somebody else."""

    def __init__(self, service: ModelService, who: Who, anew: Callable[[str], None]) -> None:
        self._service = service
        self._who = who
        self._anew = anew

    async def chat(self, request: ChatRequest, on_text: Callable[[str], None] | None = None) -> ChatReply:
        watching: Watching = _Shown(on_text, self._anew)
        return await self._service.gate.chat(self._who, request, watching)

    async def embed(self, texts: Sequence[str], model: str = "", timeout: float = 60.0) -> Vectors:
        return await self._service.embed(self._who, texts, model, timeout)

    async def count(self, text: str, model: str = "") -> int:
        return await self._service.gate.count(self._who, text, model)

    async def facts(self, model: str = "") -> ModelFacts:
        return await self._service.gate.facts(self._who, model)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> Inference:
        return await self._service.gate.infer(self._who, model, inputs, options or {}, timeout)
