"""Looks at a flow's newest runs and says what is slow, failing, never taken, oversized or wasteful.

The result is `{flow, version, runs, since, findings, words}`. Each finding has its evidence, some runs to look at, a
suggestion and, where a change of the flow helps, the changed flow (`change`), which can be saved as a draft. The rules
find everything; with `words` a model sums it up.

    {"flow": "greenhouse-guard"}
    {"flow": "{{ payload.flow }}", "runs": 2000, "words": true, "models": ["qwen2.5-1.5b"]}
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from appliance.contracts import Config, Context, Effect, Node


class AnalyzerConfig(Config, frozen=True):
    flow: Annotated[str, Meta(title="Flow", description="Its id", min_length=1)]
    runs: Annotated[int, Meta(title="Runs", description="How many of the newest", ge=1, le=5_000)] = 500
    words: Annotated[bool, Meta(title="In words", description="A model sums it up")] = False
    models: Annotated[list[str], Meta(title="Models", description="Tried in this order; empty: the default.")] = []


class Analyzer(Node[AnalyzerConfig]):
    Config = AnalyzerConfig
    title = "Look at a flow's runs"
    category = "ai"
    icon = "search-check"
    effect = Effect.IDEMPOTENT
    model_fields = {"models": "language"}

    async def run(self, ctx: Context, config: AnalyzerConfig, payload: Any) -> Any:
        models = tuple(config.models) if config.words else None
        return msgspec.to_builtins(await ctx.workshop.analyse(config.flow, config.runs, models))
