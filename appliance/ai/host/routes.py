"""What the host answers at which address: OpenAI's API, and a few addresses of our own."""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance.ai.host import asks, files, generate, memory
from appliance.ai.host.errors import BadRequest, NoModel, NotFound, WrongMethod
from appliance.ai.host.files import Found
from appliance.ai.host.http import Reply, Request
from appliance.ai.host.llama import ggufs
from appliance.ai.host.shelf import Shelf
from appliance.ai.host.work import Language
from appliance.contracts import ConfigError

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: Texts that are embedded in one go: between two of these a caller who has hung up is noticed.
_AT_ONCE = 64
_MSGPACK = "application/msgpack"


class Routes:
    """Answers requests with the models of a shelf. ``began`` is Unix seconds."""

    def __init__(self, data: Path, shelf: Shelf, began: float) -> None:
        self._data = data
        self._shelf = shelf
        self._began = began
        self._numbers = itertools.count(1)
        #: Has the host end as soon as nothing works.
        self.leave: Callable[[], None] = lambda: None
        self._routes: dict[tuple[str, str], Callable[[Request, Reply], Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/stats"): self._stats,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/v1/tokens"): self._tokens,
            ("POST", "/v1/infer"): self._infer,
            ("POST", "/leave"): self._leave,
        }

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request. Raises ``FlowError``."""
        handler = self._routes.get((request.method, request.path))
        if handler is not None:
            await handler(request, reply)
        elif request.path.startswith("/v1/models/"):
            await self._model(request, reply, request.path.removeprefix("/v1/models/"))
        elif any(path == request.path for _, path in self._routes):
            raise WrongMethod(f"{request.path} does not take {request.method}")
        else:
            raise NotFound(f"there is nothing at {request.path}")

    # --- what there is -----------------------------------------------------------------------------

    async def _health(self, request: Request, reply: Reply) -> None:
        await reply.send({"status": "ok"})

    async def _leave(self, request: Request, reply: Reply) -> None:
        self.leave()
        await reply.send({"status": "leaving"})

    async def _models(self, request: Request, reply: Reply) -> None:
        there = await asyncio.to_thread(files.look, self._data)
        cards = await asyncio.to_thread(lambda: [self._card(found, name) for found in there for name in found.names])
        await reply.send({"object": "list", "data": cards})

    async def _model(self, request: Request, reply: Reply, rest: str) -> None:
        name, _, action = rest.partition("/")
        if request.method == "GET" and not action:
            found = self._shelf.find(name.partition(files.WITH)[0])
            if name not in found.names:
                raise NoModel(f"there is no model {name!r} here; there are {', '.join(found.names)}")
            await reply.send(self._card(found, name))
        elif request.method == "POST" and action == "unload":
            await reply.send({"model": name, "unloaded": await self._shelf.unload(name)})
        else:
            raise NotFound(f"there is nothing at {request.path} for {request.method}")

    def _card(self, found: Found, name: str) -> dict[str, Any]:
        task, context, images = found.about.get("task", "run"), 0, found.projector is not None
        if found.kind == "language":
            task, context = _facts(found.path, found.stamp)
        return {
            "id": name,
            "object": "model",
            "created": found.created,
            "owned_by": "local",
            "flowork": {
                "kind": found.kind,
                "task": task,
                "context": context,
                "images": images,
                "size": found.size,
                "loaded": found.name in self._shelf.loaded,
                "licence": found.about.get("licence", ""),
            },
        }

    async def _stats(self, request: Request, reply: Reply) -> None:
        await reply.send(
            {
                "uptime": round(time.time() - self._began, 1),
                "memory": {
                    "bound": self._shelf.bound,
                    "models": self._shelf.used,
                    "resident": memory.resident(),
                    "available": memory.available(),
                },
                "loading": [
                    {"model": name, "progress": round(one.progress, 3), "waiting": one.waiting, "bytes": one.need}
                    for name, one in self._shelf.loading.items()
                ],
                "models": [
                    {
                        **one.model.describe(),
                        "model": name,
                        "kind": one.found.kind,
                        "bytes": one.size,
                        "working_for": one.users,
                        "served": one.served,
                    }
                    for name, one in self._shelf.loaded.items()
                ],
            }
        )

    # --- language ----------------------------------------------------------------------------------

    async def _chat(self, request: Request, reply: Reply) -> None:
        await self._generate(asks.read(asks.ChatBody, request.body), reply)

    async def _complete(self, request: Request, reply: Reply) -> None:
        await self._generate(asks.read(asks.CompletionBody, request.body), reply)

    async def _generate(self, body: asks.ChatBody | asks.CompletionBody, reply: Reply) -> None:
        body.ask()  # what is wrong with it is said before a model is loaded for it
        name, _, adapter = body.model.partition(files.WITH)
        body.adapter = adapter or body.adapter
        if body.adapter and body.adapter not in (there := self._shelf.find(name, "language").adapters):
            raise NoModel(f"{name!r} has no adapter {body.adapter!r} here; it has {', '.join(there) or 'none'}")
        async with self._shelf.lease(name, "language") as language:
            await generate.answer(language, body, f"{int(self._began):x}-{next(self._numbers)}", reply)

    async def _embeddings(self, request: Request, reply: Reply) -> None:
        body = asks.read(asks.EmbeddingsBody, request.body)
        texts = body.texts()
        vectors: dict[int, list[float]] = {}
        # Those of about the same length together, over all of the request: less is filled up.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        async with self._shelf.lease(body.model) as model:
            if not hasattr(model, "embed"):
                raise BadRequest(f"{body.model!r} makes no embeddings; its task is {model.describe().get('task')!r}")
            for at in range(0, len(texts), _AT_ONCE):
                places = order[at : at + _AT_ONCE]
                found = await _to_its_end(model.embed, [texts[place] for place in places])
                vectors.update(zip(places, found, strict=True))
            tokens = await _to_its_end(_count, model, texts)
        packed = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in sorted(vectors.items())
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        await reply.send({"object": "list", "data": data, "model": body.model, "usage": usage})

    async def _tokens(self, request: Request, reply: Reply) -> None:
        body = asks.read(asks.TokensBody, request.body)
        texts = [body.input] if isinstance(body.input, str) else body.input
        async with self._shelf.lease(body.model.partition(files.WITH)[0]) as model:
            if not hasattr(model, "count"):
                raise BadRequest(f"{body.model!r} reads no text")
            counts = await _to_its_end(lambda: [model.count(text) for text in texts])
        await reply.send({"model": body.model, "counts": counts, "total": sum(counts)})

    # --- ONNX --------------------------------------------------------------------------------------

    async def _infer(self, request: Request, reply: Reply) -> None:
        packed = request.headers.get("content-type", "").partition(";")[0].strip() == _MSGPACK
        body = _unpacked(request.body) if packed else _plain(asks.read(asks.InferBody, request.body))
        async with self._shelf.lease(body.model, "onnx") as model:
            began = time.perf_counter()
            outputs: dict[str, Any] = await model.infer(body.inputs, body.options)
            answer = {"model": body.model, "task": model.task, "seconds": time.perf_counter() - began}
        if packed:
            await reply.send(msgspec.msgpack.encode({**answer, "outputs": outputs}), kind=_MSGPACK)
        else:
            await reply.send({**answer, "outputs": _texts(outputs)})


@lru_cache(maxsize=256)
def _facts(path: Path, stamp: tuple[int, ...]) -> tuple[str, int]:
    """What a GGUF file is for, and its context in tokens, without loading it."""
    try:
        facts = ggufs.read(path)
    except (ConfigError, OSError):
        return "language", 0  # whoever asks it is told why that cannot be
    return "embed" if facts.pooling or "bert" in facts.architecture else "language", facts.context


async def _to_its_end(work: Callable[..., R], *arguments: Any) -> R:
    """Work on a thread. Cancelled, this waits for its end: a model must not be put away under a thread that uses it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _count(model: Language, texts: Sequence[str]) -> int:
    return sum(model.count(text) for text in texts)


def _packed(vector: Sequence[float]) -> str:
    """Little-endian float32 in base64, as OpenAI's clients ask for it by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _unpacked(body: bytes) -> asks.InferBody:
    try:
        return msgspec.msgpack.decode(body, type=asks.InferBody)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise BadRequest(f"the body cannot be read as msgpack: {exc}") from None


def _plain(body: asks.InferBody) -> asks.InferBody:
    """The same with bytes in the place of ``{"base64": …}``."""
    inputs = {}
    for name, value in body.inputs.items():
        if isinstance(value, dict) and value.keys() == {"base64"}:
            try:
                inputs[name] = base64.b64decode(value["base64"], validate=True)
            except (ValueError, TypeError):
                raise BadRequest(f"inputs.{name}: this is not base64") from None
        else:
            inputs[name] = value
    return msgspec.structs.replace(body, inputs=inputs)


def _texts(outputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for name, value in outputs.items()
    }
