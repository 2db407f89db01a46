"""Makes vectors of texts by a model for embeddings; gives `{vector, vectors, model, tokens, cost}`.

`text` is one text or a list of them; `vector` is the first one's, of length 1. Two texts that mean the same have
vectors whose product is near 1; those of different models cannot be compared. Empty `model` takes the engine's default.

    {"text": "{{ payload.message }}"}
    {"text": ["door open", "door shut"], "model": "openai/text-embedding-3-small"}
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, ConfigError, Context, Duration, Effect, Node, seconds

#: Texts of one step: a vector takes some kilobytes in the run's history.
_MOST = 1000


class EmbedConfig(Config, frozen=True):
    text: Annotated[str | list[str], Meta(title="Text", description="One, or a list.")]
    model: Annotated[str, Meta(title="Model", description="NAME or UPSTREAM/NAME; empty: the default.")] = ""
    timeout: Annotated[Duration, Meta(title="Timeout", description="Waiting for the model included.")] = 60.0


class Embed(Node[EmbedConfig]):
    Config = EmbedConfig
    title = "Embeddings"
    category = "ai"
    icon = "hash"
    effect = Effect.IDEMPOTENT
    model_fields = {"model": "embed"}

    async def run(self, ctx: Context, config: EmbedConfig, payload: Any) -> Any:
        texts = [config.text] if isinstance(config.text, str) else list(config.text)
        if not 0 < len(texts) <= _MOST:
            raise ConfigError(f"text: must be 1 to {_MOST:,} texts, not {len(texts):,}")
        if empty := [index for index, text in enumerate(texts) if not text.strip()]:
            place = "text" if isinstance(config.text, str) else f"text[{empty[0]}]"
            raise ConfigError(f"{place}: is empty, and nothing has no meaning")
        found = await ctx.models.embed(texts, config.model, seconds(config.timeout))
        return {
            "vector": found.vectors[0],
            "vectors": found.vectors,
            "model": found.model,
            "provider": found.provider,
            "tokens": found.tokens,
            "cost": found.cost,
        }
