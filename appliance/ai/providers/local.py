"""This machine's own models, in the model host: nothing leaves the box.

The host is started by the first request, and ends when nobody has asked for a while. A model is named as its file in
`models/` without `.gguf`.

    {}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.ai.providers._openai_api import Api, chat_body, has_images
from appliance.contracts import (
    ChatReply,
    ChatRequest,
    Config,
    ConfigError,
    Inference,
    ModelFacts,
    Provider,
    Reach,
    Vectors,
)

_NAME = "the model host"
#: Bytes of what an ONNX model may answer.
_LARGEST = 64_000_000


class LocalConfig(Config, frozen=True):
    """No settings: those of the model host are the engine's."""


class _Counted(Struct):
    total: int


class _Inferred(Struct):
    outputs: dict[str, Any]
    task: str
    seconds: float = 0.0


class Local(Provider[LocalConfig]):
    Config = LocalConfig
    title = "This machine"
    builtin = True

    def place(self, config: LocalConfig) -> str:
        return ""

    async def chat(
        self, reach: Reach, config: LocalConfig, model: str, request: ChatRequest, on_text: Callable[[str], None]
    ) -> ChatReply:
        if has_images(request):
            _must_see(model, await reach.installed())
        body = chat_body(request, reach.blobs)
        body |= {"flowork_shared": request.shared, "flowork_priority": reach.priority}
        return await _api(reach).chat(model, request, body, on_text)

    async def embed(self, reach: Reach, config: LocalConfig, model: str, texts: Sequence[str]) -> Vectors:
        return await _api(reach).embed(model, texts)

    async def count(self, reach: Reach, config: LocalConfig, model: str, text: str) -> int | None:
        api = _api(reach)
        found: Any = api.shaped(await api.ask("/tokens", {"model": model, "input": text}), _Counted)
        return int(found.total)

    async def infer(
        self, reach: Reach, config: LocalConfig, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Inference:
        api = _api(reach)
        body = msgspec.msgpack.encode({"model": model, "inputs": inputs, "options": options})
        async with api.open("/infer", body, "application/msgpack") as stream:
            await api.fail_unless_ok(stream)
            data = await stream.read(_LARGEST)
        found = msgspec.msgpack.decode(data, type=_Inferred)
        return Inference(outputs=found.outputs, task=found.task, model=model, provider="", seconds=found.seconds)

    async def models(self, reach: Reach, config: LocalConfig) -> list[ModelFacts]:
        return list(await reach.installed())


def _must_see(model: str, installed: Sequence[ModelFacts]) -> None:
    """Raises ``ConfigError`` for a model without eyes, and says which have some."""
    facts = next((one for one in installed if one.name == model.partition("+")[0]), None)
    if facts is None or facts.images:
        return  # of one that is not there the host says more
    seeing = ", ".join(one.name for one in installed if one.images)
    hint = f"{seeing} can" if seeing else "`flowork models pull smolvlm-500m` gets one that can"
    raise ConfigError(f"the model {model!r} of this machine sees no pictures: {hint}, or name one of an upstream")


def _api(reach: Reach) -> Api:
    return Api(http=reach.http, url="http://models/v1", name=_NAME, socket=reach.host)
