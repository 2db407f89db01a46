"""What the gateway and the command line may ask of models over the kernel's socket.

An answer comes as items: ``{"text"}`` for each piece, ``{"anew": true}`` where it begins again, and ``{"reply"}`` at
its end; or as one answer. Whoever hangs up has ended the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ChatRequest, FlowError, ModelFacts
from appliance.kernel.answering import answer
from appliance.kernel.core import Core
from appliance.kernel.params import arguments
from appliance.kernel.server import BadRequest, Handler, Params, Reply

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Patience = Annotated[float, Meta(gt=0, le=3600)]


class Asked(Struct, kw_only=True):
    """The parameters of ``model_chat``; ``who`` is the name under which its use is kept."""

    who: Name
    request: ChatRequest
    stream: bool = False


class Embedded(Struct, kw_only=True):
    """The parameters of ``model_embed``."""

    who: Name
    texts: Annotated[list[str], Meta(min_length=1, max_length=2048)]
    model: str = ""
    patience: Patience = 60.0


class Listed(Struct, kw_only=True):
    """The parameters of ``model_list``: one upstream, or all."""

    upstream: str = ""


class Used(Struct, kw_only=True):
    """The parameters of ``model_usage``: the first day, as ``2026-11-01``."""

    first: Annotated[str, Meta(pattern=r"^(\d{4}-\d\d-\d\d)?$")] = ""


class ModelApi:
    """The methods by name. Work goes on the IO loop, and answers come from there."""

    def __init__(self, kernel: Core) -> None:
        self._kernel = kernel
        self._models = kernel.models
        self._spawn = kernel.engine.steps.io.spawn

    def methods(self) -> dict[str, Handler]:
        return {
            "model_chat": self._chat,
            "model_embed": self._embed,
            "model_list": self._list,
            "model_usage": self._usage,
        }

    def _begin(self, reply: Reply, work: Coroutine[Any, Any, Any]) -> None:
        answer(reply, self._spawn, work)

    def _chat(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, Asked)
        if not asked.request.messages and asked.request.prompt is None:
            raise BadRequest("there is nothing to answer: no messages, and no prompt")
        anew = (lambda why: reply.item({"anew": True})) if asked.stream else lambda why: None
        on_text = (lambda text: reply.item({"text": text})) if asked.stream else None
        models = self._models.for_work(asked.who, anew)

        async def work() -> Any:
            answer = msgspec.to_builtins(await models.chat(asked.request, on_text))
            if asked.stream:
                reply.item({"reply": answer})
            return answer

        self._begin(reply, work())

    def _embed(self, params: Params, reply: Reply) -> None:
        asked = arguments(params, Embedded)
        models = self._models.for_work(asked.who)

        async def work() -> Any:
            return msgspec.to_builtins(await models.embed(asked.texts, asked.model, asked.patience))

        self._begin(reply, work())

    def _list(self, params: Params, reply: Reply) -> None:
        """Every upstream with its models, or why they cannot be told."""
        wanted = arguments(params, Listed).upstream
        upstreams = self._models.gate.upstreams
        names = [name for name in upstreams.known if wanted in ("", name)]
        broken = {name: why for name, why in upstreams.broken.items() if wanted in ("", name)}

        async def work() -> Any:
            found = await asyncio.gather(*(self._look(name) for name in names))
            return [*found, *({"upstream": name, "place": "", "error": why} for name, why in broken.items())]

        self._begin(reply, work())

    async def _look(self, name: str) -> dict[str, Any]:
        gate, upstream = self._models.gate, self._models.gate.upstreams.known[name]
        told: dict[str, Any] = {
            "upstream": name,
            "place": upstream.place,
            "local": upstream.kind.builtin,
            "breaker": self._models.passages.view(name),
        }
        began = time.monotonic()
        try:
            models: list[ModelFacts] = await gate.models(name)
        except FlowError as exc:
            return {**told, "error": exc.message}
        return {**told, "seconds": time.monotonic() - began, "models": msgspec.to_builtins(models)}

    def _usage(self, params: Params, reply: Reply) -> None:
        """What was used, and what budgets are left."""
        first = arguments(params, Used).first
        rows = [
            {"day": row.day, "flow": row.flow, "node": row.node, "model": row.model, **_sums(row.use)}
            for row in self._models.accounts.rows(first)
        ]
        reply.ok({"rows": rows, "budgets": self._models.accounts.left(), "today": self._models.today().isoformat()})


def _sums(use: Any) -> dict[str, Any]:
    return {name: getattr(use, name) for name in use.__struct_fields__}
