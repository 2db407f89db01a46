"""Models across engines: what peers offer to this engine's model gateway, and what peers ask of this machine's models.

Only this machine's own models answer peers. Nothing that a peer asks goes on to a third engine or to a paid upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.ai.gateway.gate import EMBED, LANGUAGE
from appliance.ai.gateway.names import LOCAL
from appliance.contracts import Blobs, Busy, ChatRequest, ConfigError, FlowError, ModelFacts
from appliance.contracts.peers import PeerRequest, Peers
from appliance.kernel.peering import wire
from appliance.kernel.peering.choice import burden

if TYPE_CHECKING:
    from appliance.kernel.models import ModelService

#: What the files of models call a task, where that is not what the gateway calls it.
_TASKS = {"embedding": EMBED, "chat": LANGUAGE}
INFER = "model_infer"


class LinkedModels:
    """Implements :class:`appliance.contracts.PeerModels`."""

    def __init__(self, peers: Peers, blobs: Blobs) -> None:
        self._peers = peers
        self._blobs = blobs
        self._asking: dict[str, int] = {}

    def offered(self) -> Sequence[tuple[str, ModelFacts]]:
        states = [state for state in self._peers.states() if state.connected and state.allows.may("models")]
        states.sort(key=lambda state: burden(state, self._asking))
        return [
            (
                state.name,
                ModelFacts(
                    name=model.name,
                    provider="",
                    place=state.name,
                    task=_TASKS.get(model.task, model.task),
                    context=model.context,
                ),
            )
            for state in states
            for model in state.offers.models
        ]

    async def ask(
        self, peer: str, method: str, body: Any, timeout: float, on_item: Callable[[Any], None] | None = None
    ) -> Any:
        loop = asyncio.get_running_loop()

        def item(value: Any) -> None:
            if on_item is not None:
                loop.call_soon_threadsafe(on_item, value)

        self._asking[peer] = self._asking.get(peer, 0) + 1
        try:
            if method != INFER:
                return await asyncio.wrap_future(self._peers.request(peer, method, body, timeout, item))
            inputs = await asyncio.to_thread(wire.bytes_aside, body["inputs"], self._blobs)
            request = self._peers.request(peer, method, {**body, "inputs": inputs}, timeout, item)
            found = await asyncio.wrap_future(request)
            return {**found, "outputs": await asyncio.to_thread(wire.bytes_back, found["outputs"], self._blobs)}
        finally:
            self._asking[peer] -= 1


class Chat(Struct, kw_only=True):
    """``model_chat``: items are ``{"text"}``, the answer is a ``ChatReply``."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    request: ChatRequest


class Embed(Struct, kw_only=True):
    """``model_embed``: the answer is ``Vectors``."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    texts: Annotated[list[str], Meta(min_length=1, max_length=2048)]


class Infer(Struct, kw_only=True):
    """``model_infer``: an ONNX model once; the answer is ``Inference``. Bytes are in blobs, both ways."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    inputs: dict[str, Any]
    options: dict[str, Any] = {}
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 60.0


class ServedModels:
    """Answers peers. ``spawn`` runs a coroutine on the IO loop and gives its future."""

    def __init__(self, models: Callable[[], ModelService], spawn: Callable[[Any], Any], blobs: Blobs) -> None:
        self._models = models
        self._spawn = spawn
        self._blobs = blobs

    def start(self, peers: Peers) -> list[Callable[[], None]]:
        """Serve; returns the stops."""
        return [
            peers.serve("model_chat", partial(self._serve, Chat, self._chat), right="models"),
            peers.serve("model_embed", partial(self._serve, Embed, self._embed), right="models"),
            peers.serve(INFER, partial(self._serve, Infer, self._infer), right="models"),
        ]

    def _serve(self, kind: type[Any], work: Callable[[PeerRequest, Any], Awaitable[Any]], request: PeerRequest) -> None:
        try:
            asked = msgspec.convert(request.body, kind)
        except msgspec.ValidationError as exc:
            request.error(ConfigError(f"this cannot be read: {exc}"))
            return
        future = self._spawn(self._answer(request, work, asked))
        request.on_end(lambda why: _cancel(future))

    async def _answer(
        self, request: PeerRequest, work: Callable[[PeerRequest, Any], Awaitable[Any]], asked: Any
    ) -> None:
        try:
            own = await self._models().gate.models(LOCAL)
            if all(one.name != asked.model for one in own):
                raise ConfigError(f"this engine has no model {asked.model!r} of its own")
            request.answer(msgspec.to_builtins(await work(request, asked)))
        except FlowError as exc:
            request.error(exc)

    async def _chat(self, request: PeerRequest, asked: Chat) -> Any:
        held: list[str] = []

        def piece(text: str) -> None:
            held.append(text)
            try:
                request.item({"text": "".join(held)})
            except Busy:
                return  # it goes with the next piece, or with the answer
            held.clear()

        models = self._models().for_work(f"peer {request.peer.name}")
        return await models.chat(msgspec.structs.replace(asked.request, models=(asked.model,)), piece)

    async def _embed(self, request: PeerRequest, asked: Embed) -> Any:
        models = self._models().for_work(f"peer {request.peer.name}")
        return await models.embed(asked.texts, asked.model)

    async def _infer(self, request: PeerRequest, asked: Infer) -> Any:
        models = self._models().for_work(f"peer {request.peer.name}")
        inputs = await asyncio.to_thread(wire.bytes_back, asked.inputs, self._blobs)
        found = await models.infer(asked.model, inputs, asked.options, asked.timeout)
        outputs = await asyncio.to_thread(wire.bytes_aside, found.outputs, self._blobs)
        return msgspec.structs.replace(found, outputs=outputs)


def _cancel(future: Any) -> None:
    future.cancel()
