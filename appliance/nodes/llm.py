"""Asks a language model; gives `{text, data, model, tokens_in, tokens_out, cost, …}`.

`models` are tried in this order until one answers: `NAME` is this machine's, `UPSTREAM/NAME` an upstream's; empty takes
the engine's default. With `schema` (a JSON Schema) the answer is one JSON value that fits it, in `data`. `images` are
references to blobs, as steps that take or read pictures give them, or what a webhook was sent, for models that see (of
this machine those with a projector: docs/models.md). While the model answers, its words are shown in the run's view.

    {"system": "You look after a greenhouse. Answer in one sentence.", "prompt": "It is {{ payload.t }} °C. What now?"}
    {"prompt": "Read the invoice.\\n{{ payload.text }}", "models": ["qwen", "openai/gpt-5-mini"],
     "schema": {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}}
    {"prompt": "Who is at the gate? One word.", "images": ["{{ payload.image }}"], "models": ["smolvlm-500m-q8_0"]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from appliance.contracts import (
    ChatReply,
    ChatRequest,
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    Node,
    seconds,
)
from appliance.nodes import _media


class LlmConfig(Config, frozen=True):
    prompt: Annotated[str, Meta(title="Prompt", min_length=1, extra_json_schema={"format": "textarea"})]
    system: Annotated[
        str,
        Meta(
            title="System prompt",
            description="Who the model is and how it answers; evaluated once and kept if it is always the same.",
            extra_json_schema={"format": "textarea"},
        ),
    ] = ""
    models: Annotated[list[str], Meta(title="Models", description="Tried in this order; empty: the default.")] = []
    schema: Annotated[
        dict[str, Any] | None, Meta(title="JSON Schema", description="The answer is a value that fits it.")
    ] = None
    images: Annotated[list[dict[str, Any]], Meta(title="Pictures", description="References to blobs.")] = []
    temperature: Annotated[float, Meta(title="Temperature", description="0 answers the same again.", ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Meta(title="Longest answer in tokens", ge=1, le=1_000_000)] = 512
    stop: Annotated[list[str], Meta(title="Stop at", description="Texts before which the answer ends.")] = []
    seed: Annotated[int | None, Meta(title="Seed", description="For the same answer above temperature 0.")] = None
    timeout: Annotated[Duration, Meta(title="Timeout", description="For each model, waiting for it included.")] = 120.0
    cache: Annotated[
        bool, Meta(title="Known answers", description="Give a known answer to the same question at temperature 0.")
    ] = True


class Llm(Node[LlmConfig]):
    Config = LlmConfig
    title = "Language model"
    category = "ai"
    icon = "sparkles"
    #: Not pure: it costs time and money, so what led here is on disk first, and its answer at once.
    effect = Effect.IDEMPOTENT
    model_fields = {"models": "language"}

    def schemas(self, config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        return [("schema", config["schema"])] if config.get("schema") else []

    async def run(self, ctx: Context, config: LlmConfig, payload: Any) -> Any:
        images = [_picture(ctx, f"images[{at}]", image) for at, image in enumerate(config.images)]
        reply = await ctx.models.chat(request_of(msgspec.structs.replace(config, images=images)), ctx.stream)
        return view(reply)


def _picture(ctx: Context, what: str, image: dict[str, Any]) -> dict[str, Any]:
    """A picture as a reference to a blob. Raises ``ConfigError`` for what is none."""
    if "$blob" in image:
        return image
    data = _media.held(ctx, image, what)
    if data is None:
        raise ConfigError(f"{what}: is not a reference to a blob")
    return ctx.blobs.put(data, str(image.get("type") or "application/octet-stream"))


def request_of(config: LlmConfig) -> ChatRequest:
    """The question. A system prompt is the same at every call if its text is."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": config.system}] if config.system else []
    shared = len(messages)
    content: Any = config.prompt
    if config.images:
        content = [{"type": "text", "text": config.prompt}, *({"type": "image", "image": one} for one in config.images)]
    messages.append({"role": "user", "content": content})
    return ChatRequest(
        messages=messages,
        models=tuple(config.models),
        schema=config.schema,
        temperature=config.temperature,
        seed=config.seed,
        max_tokens=config.max_tokens,
        stop=tuple(config.stop),
        shared=shared,
        timeout=seconds(config.timeout),
        cache=config.cache,
    )


def view(reply: ChatReply) -> dict[str, Any]:
    """What the step gives."""
    return {
        "text": reply.text,
        "data": reply.data,
        "model": reply.model,
        "provider": reply.provider,
        "finish": reply.finish,
        "tokens_in": reply.tokens_in,
        "tokens_cached": reply.tokens_cached,
        "tokens_out": reply.tokens_out,
        "seconds": round(reply.seconds, 3),
        "first": round(reply.first, 3),
        "cost": reply.cost,
        "from_cache": reply.from_cache,
    }
