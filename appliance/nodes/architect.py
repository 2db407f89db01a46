"""Drafts a flow from a sentence or from a spec; the draft is checked, and never saved.

A model chooses kinds of steps, writes the flow in a form that it cannot leave, and mends what the check finds, at most
`repairs` times. The result is `{flow, spec, sample, problems, model, tokens, cost}`: `sample` is a payload such as the
flow's trigger would bring, `problems` are the faults that are left. With `flow` a flow that is there already is changed
to what `text` or `spec` say.

    {"text": "{{ payload.wish }}"}
    {"spec": "{{ payload.spec }}", "flow": "{{ payload.flow }}", "models": ["qwen2.5-3b", "cloud/gpt-5-mini"]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from appliance.contracts import Config, Context, DraftRequest, Effect, Node, Problem, World


class ArchitectConfig(Config, frozen=True):
    text: Annotated[str, Meta(title="What is wanted", description="In a sentence or more", max_length=20_000)] = ""
    spec: Annotated[str, Meta(title="Spec", description="A flow's (edited) spec", max_length=200_000)] = ""
    flow: Annotated[Any, Meta(title="Flow", description="The flow that is to be changed; empty: a new one")] = None
    models: Annotated[list[str], Meta(title="Models", description="Tried in this order; empty: the default.")] = []
    repairs: Annotated[int, Meta(title="Repairs", description="How often it may mend its faults", ge=0, le=10)] = 3


class Architect(Node[ArchitectConfig]):
    Config = ArchitectConfig
    title = "Draft a flow"
    category = "ai"
    icon = "pencil-ruler"
    effect = Effect.IDEMPOTENT
    model_fields = {"models": "language"}

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if not config.get("text") and not config.get("spec"):
            yield Problem("text", "say what is wanted, here or in `spec`")

    async def run(self, ctx: Context, config: ArchitectConfig, payload: Any) -> Any:
        request = DraftRequest(
            text=config.text,
            spec=config.spec,
            flow=config.flow if isinstance(config.flow, dict) else None,
            models=tuple(config.models),
            repairs=config.repairs,
            timeout=ctx.deadline,
        )
        draft = await ctx.workshop.draft(request, lambda line: ctx.stream(f"{line}\n"))
        return msgspec.to_builtins(draft)
