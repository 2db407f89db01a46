"""Providers: what a place where models are must do, and what it receives for that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol

from appliance.contracts.config import C, Config
from appliance.contracts.errors import ConfigError
from appliance.contracts.models import ChatReply, ChatRequest, Inference, ModelFacts, Vectors
from appliance.contracts.services import Blobs


class HttpStream(Protocol):
    """An HTTP answer whose body is read as it comes; header names are lower case. Raises as ``Http.request`` does."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    def lines(self) -> AsyncIterator[str]:
        """The lines of the body without their ends; one longer than 4 MB breaks the stream off."""

    async def read(self, limit: int = 4_000_000) -> bytes:
        """The whole body. Raises ``NodeError`` for one over ``limit`` bytes."""


class StreamingHttp(Protocol):
    """The engine's HTTP client for answers that come piece by piece. Leaving the block closes the connection."""

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        socket: Path | None = None,
        called: str = "",
        verify: bool = True,
    ) -> AbstractAsyncContextManager[HttpStream]:
        """Send a request; ``socket`` is a Unix socket to go through, then the URL's host is only a name. ``called`` is
        what errors call the other side, instead of by its address.
        """


class PeerModels(Protocol):
    """The models of paired engines that let this one ask them now."""

    def offered(self) -> Sequence[tuple[str, ModelFacts]]:
        """Each model with the name of the engine that has it, the least loaded engine first."""

    async def ask(
        self, peer: str, method: str, body: Any, timeout: float, on_item: Callable[[Any], None] | None = None
    ) -> Any:
        """Ask an engine for ``model_chat``, ``model_embed`` or ``model_infer``. ``on_item`` is called on the engine's
        IO thread. Raises as ``Peers.request`` does; cancelling the await ends the work there.
        """


class Reach(Protocol):
    """What a provider receives for one request."""

    @property
    def http(self) -> StreamingHttp: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def host(self) -> Path:
        """The Unix socket of this machine's model host."""

    @property
    def priority(self) -> int:
        """Of the flow that asks, -100 to 100; higher goes first where requests wait for a model."""

    async def installed(self) -> Sequence[ModelFacts]:
        """The models that lie on this machine, told without waking their host."""

    def edition(self, model: str) -> str:
        """What is another one as soon as another model of this machine has that name."""

    @property
    def peers(self) -> PeerModels: ...

    def secret(self, name: str) -> str:
        """A secret of the default workspace. Raises ``ConfigError`` if there is none of that name."""


class Provider(Generic[C]):
    """One kind of place where models are; one file in ``appliance/ai/providers/`` is one provider.

    A set-up of it is an upstream, which has a name and a config. Methods raise ``ConfigError`` for what the other
    side will never accept, ``Busy`` if it wants a pause, else ``NodeError``, whose ``retryable`` says whether the same
    may succeed later; ``detail["refused"]`` tells that the other side works, and will not do this for us.
    """

    Config: ClassVar[type[Config]] = Config
    title: ClassVar[str] = ""
    #: It is always there under its own name, without being set up.
    builtin: ClassVar[bool] = False

    def check(self, config: C) -> None:
        """Raise ``ConfigError`` for what the types cannot express."""

    def place(self, config: C) -> str:
        """Who sees what is sent: empty for this machine, else a host's name."""
        raise NotImplementedError

    async def chat(
        self, reach: Reach, config: C, model: str, request: ChatRequest, on_text: Callable[[str], None]
    ) -> ChatReply:
        """One answer. ``provider`` and ``cost`` of the reply are filled in by the caller."""
        raise NotImplementedError

    async def embed(self, reach: Reach, config: C, model: str, texts: Sequence[str]) -> Vectors:
        """One vector per text, of any length."""
        raise NotImplementedError

    async def count(self, reach: Reach, config: C, model: str, text: str) -> int | None:
        """Tokens of a text; None if only the other side could tell."""
        return None

    async def infer(
        self, reach: Reach, config: C, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Inference:
        """Run an ONNX model once, as ``Models.infer`` says."""
        raise ConfigError(f"{self.title} runs no ONNX models")

    async def models(self, reach: Reach, config: C) -> list[ModelFacts]:
        """What models there are, of each ``task`` the one to take by default first."""
        raise NotImplementedError
