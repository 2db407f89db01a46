"""The kernel's side of the models: puts the gateway together, and is ``ctx.models`` for every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.ai.gateway.gate import Gate, Who
from appliance.ai.gateway.names import Upstreams
from appliance.contracts import (
    Blobs,
    ChatReply,
    ChatRequest,
    ConfigError,
    Inference,
    ModelFacts,
    Provider,
    StreamingHttp,
    Vectors,
)
from appliance.kernel.streams import Streams

if TYPE_CHECKING:
    from appliance.kernel.context import Services, StepContext
    from appliance.store.settings import Settings

#: The model host's socket in the data folder.
HOST = "models.sock"
_WORKSPACE = "default"


class ModelService:
    """All that asks a model in this kernel goes through here. ``data`` is the engine's own folder."""

    def __init__(self, data: Path, services: Services, http: StreamingHttp, streams: Streams) -> None:
        self._data = data
        self._services = services
        self._http = http
        self._streams = streams

    def load(self, settings: Settings, providers: Mapping[str, Provider[Any]]) -> None:
        """Take up the settings."""
        upstreams = Upstreams(providers, settings.model_upstreams)
        self._embeds = settings.model_embed
        self.gate = Gate(upstreams, settings.model_default, self._reach)

    def for_step(self, ctx: StepContext) -> BoundModels:
        """The models as one step sees them."""
        return BoundModels(self, Who(ctx.flow_number, ctx.node, ctx.priority), lambda: self._streams.anew(ctx))

    def for_work(self, name: str) -> BoundModels:
        """The models for work of the engine's own, which is no flow's; ``name`` is its account."""
        return BoundModels(self, Who(0, name), lambda: None)

    def _reach(self, who: Who) -> KernelReach:
        return KernelReach(self._services, self._http, self._data / HOST, who.priority)

    async def chat(self, who: Who, request: ChatRequest, watching: Watching) -> ChatReply:
        return await self.gate.chat(who, request, watching)

    async def embed(self, who: Who, texts: Sequence[str], model: str, timeout: float) -> Vectors:
        return await self.gate.embed(who, texts, model, self._embeds, timeout)


class Watching:
    """Implements the gate's ``Watching``: hands pieces on, and has watchers begin anew where the answer does."""

    def __init__(self, on_text: Callable[[str], None] | None, anew: Callable[[], None]) -> None:
        self._on_text = on_text
        self.anew = anew

    def piece(self, text: str) -> None:
        if self._on_text is not None:
            self._on_text(text)


class KernelReach:
    """Implements :class:`appliance.contracts.Reach`."""

    def __init__(self, services: Services, http: StreamingHttp, host: Path, priority: int) -> None:
        self._services = services
        self.http = http
        self.host = host
        self.priority = priority

    @property
    def blobs(self) -> Blobs:
        return self._services.blobs

    def secret(self, name: str) -> str:
        found = self._services.secrets.get(_WORKSPACE, {}).get(name)
        if found is None:
            raise ConfigError(f"there is no secret {name!r} in the workspace {_WORKSPACE!r}")
        return found


class BoundModels:
    """Implements :class:`appliance.contracts.Models` for one who asks."""

    def __init__(self, service: ModelService, who: Who, anew: Callable[[], None]) -> None:
        self._service = service
        self._who = who
        self._anew = anew

    async def chat(self, request: ChatRequest, on_text: Callable[[str], None] | None = None) -> ChatReply:
        return await self._service.chat(self._who, request, Watching(on_text, self._anew))

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
