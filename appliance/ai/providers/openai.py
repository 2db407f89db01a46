"""Any server that speaks the OpenAI API: OpenAI itself, Gemini, Ollama, vLLM, llama.cpp, another Flowork.

The address ends where `/chat/completions` would begin: `https://api.openai.com/v1`, `http://ollama.lan:11434/v1`,
`https://generativelanguage.googleapis.com/v1beta/openai`. The key is a secret of the default workspace, by its name.

    {"url": "https://api.openai.com/v1", "secret": "openai"}
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from appliance.ai.providers._openai_api import Api, Unwanted, chat_body, has_images
from appliance.contracts import (
    ChatReply,
    ChatRequest,
    Config,
    ConfigError,
    ModelFacts,
    Provider,
    Reach,
    Vectors,
)

#: Parameters that some server or model does not take, and without which the question is still the same enough.
_OPTIONAL = {"temperature", "top_p", "seed", "stop", "stream_options", "response_format", "max_tokens"}
_LOCAL = {"localhost", "localhost.localdomain"}


class OpenAIConfig(Config, frozen=True):
    url: Annotated[str, Meta(title="Address", description="http:// or https://, mostly with /v1 at its end")]
    secret: Annotated[
        str, Meta(title="Secret with the key", description="Its name in the default workspace; empty: no key")
    ] = ""
    models: Annotated[
        list[str], Meta(title="Models", description="The first one is taken where none is named; empty: ask the server")
    ] = []
    images: Annotated[bool, Meta(title="Its models see pictures")] = True
    context: Annotated[
        int, Meta(title="Context", description="Tokens of prompt and answer together; 0: not known", ge=0)
    ] = 0
    headers: Annotated[dict[str, str], Meta(title="Further headers")] = {}
    verify: Annotated[bool, Meta(title="Check the certificate")] = True


class _Listed(Struct):
    id: str


class _List(Struct):
    data: list[_Listed]


class OpenAI(Provider[OpenAIConfig]):
    Config = OpenAIConfig
    title = "OpenAI API"

    def __init__(self) -> None:
        #: What a server's model was seen not to take.
        self._unwanted: dict[tuple[str, str], frozenset[str]] = {}

    def check(self, config: OpenAIConfig) -> None:
        try:
            parts = urlsplit(config.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"url: {config.url!r} is not an http(s) URL")

    def place(self, config: OpenAIConfig) -> str:
        host = urlsplit(config.url).hostname or ""
        try:
            here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            here = host in _LOCAL
        return "" if here else host

    async def chat(
        self, reach: Reach, config: OpenAIConfig, model: str, request: ChatRequest, on_text: Callable[[str], None]
    ) -> ChatReply:
        if not config.images and has_images(request):
            raise ConfigError(f"{model!r}: the models of this upstream see no pictures (its setting `images`)")
        api, body = self._api(reach, config), chat_body(request, reach.blobs)
        place = (config.url, model)
        while True:
            unwanted = self._unwanted.get(place, frozenset())
            try:
                return await api.chat(model, request, _without(body, unwanted), on_text)
            except Unwanted as exc:
                name = exc.name.partition(".")[0]
                if name not in _OPTIONAL or name in unwanted:
                    raise ConfigError(exc.message, detail={"refused": True}) from None
                self._unwanted[place] = unwanted | {name}

    async def embed(self, reach: Reach, config: OpenAIConfig, model: str, texts: Sequence[str]) -> Vectors:
        return await self._api(reach, config).embed(model, texts)

    async def models(self, reach: Reach, config: OpenAIConfig) -> list[ModelFacts]:
        names = config.models
        if not names:
            api = self._api(reach, config)
            names = [one.id.removeprefix("models/") for one in api.shaped(await api.ask("/models", None), _List).data]
        place = self.place(config)
        return [
            ModelFacts(name=name, provider="", place=place, context=config.context, images=config.images)
            for name in names
        ]

    def _api(self, reach: Reach, config: OpenAIConfig) -> Api:
        headers = dict(config.headers)
        if config.secret:
            headers["Authorization"] = f"Bearer {reach.secret(config.secret)}"
        return Api(
            http=reach.http,
            url=config.url,
            name=str(urlsplit(config.url).hostname),
            headers=headers,
            verify=config.verify,
        )


def _without(body: dict[str, Any], unwanted: frozenset[str]) -> dict[str, Any]:
    """The body with what the server does not take left out, or said in the way that it takes."""
    found = {name: value for name, value in body.items() if name not in unwanted}
    if "max_tokens" in unwanted:
        # OpenAI's newer models count their thoughts too, and call the bound so.
        found["max_completion_tokens"] = body["max_tokens"]
    if "response_format" in unwanted and "response_format" in body and "messages" in body:
        wanted = msgspec.json.encode(body["response_format"]["json_schema"]["schema"]).decode()
        words = f"Answer with one JSON value that fits this JSON Schema, and with nothing else:\n{wanted}"
        found["messages"] = [{"role": "system", "content": words}, *body["messages"]]
    return found
