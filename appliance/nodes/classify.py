"""Puts a text under one of some labels; gives `{label, scores, …}` and leaves by the port `label`.

`labels` are names with what they mean, or with examples. `by: model` (default) asks a language model, which can answer
nothing but one of the labels. `by: distance` compares the text's vector with those of the examples, which a small model
does in milliseconds; below `least` (0 to 1) it is `other`. With `ports` each label is a port of its own.

    {"text": "{{ payload.subject }}", "labels": {"bill": "somebody wants money", "spam": "advertising", "rest": ""}}
    {"text": "{{ payload.text }}", "by": "distance", "least": 0.5,
     "labels": {"on": ["light on", "it is dark in here"], "off": ["light off", "too bright"]}}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import (
    ChatRequest,
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    Node,
    Out,
    Problem,
    World,
    seconds,
)

OTHER = "other"
_MOST_LABELS = 100
#: Tokens of an answer: a label in quotes.
_ANSWER = 64


class ClassifyConfig(Config, frozen=True):
    text: Annotated[str, Meta(title="Text", min_length=1)]
    labels: Annotated[
        dict[str, str | list[str]],
        Meta(title="Labels", description="Names with what they mean, or with lists of examples.", min_length=2),
    ]
    by: Annotated[Literal["model", "distance"], Meta(title="How", description="Ask a model, or compare vectors.")] = (
        "model"
    )
    about: Annotated[
        str, Meta(title="What it is about", description="For the model: what the text is, what to heed.")
    ] = ""
    models: Annotated[list[str], Meta(title="Models", description="Tried in this order; empty: the default.")] = []
    embed_model: Annotated[str, Meta(title="Model for embeddings", description="For distance; empty: the default.")] = (
        ""
    )
    least: Annotated[
        float, Meta(title="Least likeness", description="Below it is `other`; for distance.", ge=-1, le=1)
    ] = 0.0
    ports: Annotated[bool, Meta(title="A port for each label")] = False
    timeout: Annotated[Duration, Meta(title="Timeout", description="For each model, waiting for it included.")] = 60.0


class Classify(Node[ClassifyConfig]):
    Config = ClassifyConfig
    title = "Classify"
    category = "ai"
    icon = "tag"
    effect = Effect.IDEMPOTENT
    model_fields = {"models": "language", "embed_model": "embed"}

    def ports_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        labels = config.get("labels")
        if config.get("ports") is not True or not isinstance(labels, Mapping):
            return self.ports
        return (*map(str, labels), *((OTHER,) if OTHER not in labels and config.get("by") == "distance" else ()))

    def sends_to(self, config: Mapping[str, Any], world: World) -> Iterable[str]:
        field, kind = ("embed_model", "embed") if config.get("by") == "distance" else ("models", "language")
        names = config.get(field) or []
        return world.model_places([names] if isinstance(names, str) else list(names), kind)

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        labels = config.get("labels")
        if not isinstance(labels, Mapping):
            return
        if len(labels) > _MOST_LABELS:
            yield Problem("labels", f"at most {_MOST_LABELS} labels")
        for name, given in labels.items():
            if not str(name).strip():
                yield Problem("labels", "a label has no name")
            if config.get("by") == "distance" and not _examples(str(name), given):
                yield Problem(f"labels.{name}", "has no example")
        if config.get("ports") is True and "error" in labels:
            yield Problem("labels.error", "is the port for failures; name the label otherwise")

    async def run(self, ctx: Context, config: ClassifyConfig, payload: Any) -> Any:
        found = await (self._by_distance if config.by == "distance" else self._by_model)(ctx, config)
        return Out(found, found["label"] if config.ports else "out")

    async def _by_model(self, ctx: Context, config: ClassifyConfig) -> dict[str, Any]:
        lines = [_line(name, given) for name, given in config.labels.items()]
        about = f"{config.about.strip()}\n" if config.about.strip() else ""
        system = f"{about}Say which of these labels fits the text best. Answer with the label alone.\n" + "\n".join(
            lines
        )
        request = ChatRequest(
            messages=[{"role": "system", "content": system}, {"role": "user", "content": config.text}],
            models=tuple(config.models),
            schema={"enum": list(config.labels)},
            max_tokens=_ANSWER,
            shared=1,
            timeout=seconds(config.timeout),
        )
        reply = await ctx.models.chat(request)
        return {"label": reply.data, "scores": {}, "model": reply.model, "provider": reply.provider, "cost": reply.cost}

    async def _by_distance(self, ctx: Context, config: ClassifyConfig) -> dict[str, Any]:
        examples = [(name, text) for name, given in config.labels.items() for text in _examples(name, given)]
        if not examples:
            raise ConfigError("labels: there are no examples to compare with")
        texts = [config.text, *(text for _, text in examples)]
        found = await ctx.models.embed(texts, config.embed_model, seconds(config.timeout))
        asked, *known = found.vectors
        scores: dict[str, float] = {}
        for (name, _), vector in zip(examples, known, strict=True):
            # Both have length 1, so this is the cosine of the angle between them.
            likeness = math.fsum(one * other for one, other in zip(asked, vector, strict=True))
            scores[name] = max(scores.get(name, -1.0), likeness)
        best = max(scores, key=scores.__getitem__)
        return {
            "label": best if scores[best] >= config.least else OTHER,
            "scores": {name: round(score, 4) for name, score in scores.items()},
            "model": found.model,
            "provider": found.provider,
            "cost": found.cost,
        }


def _examples(name: str, given: str | list[str]) -> list[str]:
    """What a text is compared with: the examples, or what the label means, or at least its name."""
    if isinstance(given, str):
        return [given.strip() or name]
    return [text for text in given if text.strip()]


def _line(name: str, given: str | list[str]) -> str:
    if isinstance(given, str):
        return f"- {name}: {given}" if given.strip() else f"- {name}"
    return f"- {name}, such as: " + "; ".join(given)
