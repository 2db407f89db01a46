"""Remembers what happened and how it ended, recalls what is like a text, and forgets.

`remember` keeps `text` with its `outcome`, `tags` and `data`; a step does so once, also over a crash or a retry. Only
what a flow remembers is remembered. `recall` gives the episodes of the workspace that fit `text` best: by meaning
where the engine has a model for embeddings, by words always, newer ones before older ones, those with `outcome`
before others; without a `text` the newest. `forget` deletes by age, tag, outcome, flow or number. Leaves by `out`,
a recall that found nothing by `nothing`. Secrets are never kept. See docs/ai-agents.md for the score.

    {"action": "remember", "text": "Pump 2 ran dry, the filter was clogged. Cleaned it.", "outcome": "solved",
     "tags": ["pump"]}
    {"action": "recall", "text": "{{ payload.alarm }}", "outcome": "solved", "limit": 3}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Effect, Node, Out, Problem, World, seconds


class MemoryConfig(Config, frozen=True):
    action: Annotated[Literal["remember", "recall", "forget"], Meta(title="Do")] = "remember"
    text: Annotated[str, Meta(title="Text", description="What happened, or what to look for")] = ""
    outcome: Annotated[
        str, Meta(title="Outcome", description="How it ended; for recall the preferred end", max_length=100)
    ] = ""
    only: Annotated[bool, Meta(title="Only this outcome", description="For recall")] = False
    tags: Annotated[
        list[Annotated[str, Meta(max_length=100)]], Meta(title="Tags", description="All of them", max_length=20)
    ] = []
    data: Annotated[Any, Meta(title="Data", description="Kept with it, given back with it")] = None
    flow: Annotated[str, Meta(title="Flow", description="Recall or forget only what this flow (id) remembered")] = ""
    limit: Annotated[int, Meta(title="How many", description="For recall", ge=1, le=100)] = 5
    least: Annotated[float, Meta(title="Least score", description="0 to 1, for recall", ge=0, le=1)] = 0.1
    age: Annotated[
        Duration | None,
        Meta(title="Age", description="Remember for so long; recall only newer, forget only older than that"),
    ] = None
    keep: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(title="Keep", description="Of more than so many the oldest are forgotten; 20,000 if left out"),
    ] = None


class Memory(Node[MemoryConfig]):
    Config = MemoryConfig
    title = "Memory"
    category = "ai"
    icon = "memory"

    def ports_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        return ("out", "nothing") if config.get("action") == "recall" else ("out",)

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        return Effect.PURE if config.get("action") == "recall" else Effect.IDEMPOTENT

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        action = config.get("action", "remember")
        if action == "remember" and not config.get("text"):
            yield Problem("text", "say what is to be remembered")
        narrows = ("age", "outcome", "tags", "flow", "keep")
        if action == "forget" and all(config.get(name) in (None, "", []) for name in narrows):
            yield Problem("action", f"say what is to be forgotten: {', '.join(narrows)}; all of it is `keep: 0`")

    async def run(self, ctx: Context, config: MemoryConfig, payload: Any) -> Any:
        age = None if config.age is None else seconds(config.age)
        if config.action == "remember":
            number = await ctx.memory.remember(
                config.text,
                key=ctx.idempotency_key,
                outcome=config.outcome,
                tags=config.tags,
                data=config.data,
                lifetime=age,
                keep=20_000 if config.keep is None else max(config.keep, 1),
            )
            return {"id": number, "text": config.text}
        if config.action == "forget":
            forgotten = await ctx.memory.forget(
                before=None if age is None else ctx.now() - age,
                outcome=config.outcome,
                tags=config.tags,
                flow=config.flow,
                keep=config.keep,
            )
            return {"forgotten": forgotten}
        found = await ctx.memory.recall(
            config.text,
            limit=config.limit,
            outcome=config.outcome,
            only=config.only,
            tags=config.tags,
            flow=config.flow,
            since=None if age is None else ctx.now() - age,
            least=config.least if config.text.strip() else 0.0,
        )
        episodes = msgspec.to_builtins(found)
        value = {"episodes": episodes, "text": "\n".join(f"- {_line(one)}" for one in episodes)}
        return Out(value, "out" if episodes else "nothing")


def _line(episode: Mapping[str, Any]) -> str:
    return f"{episode['text']} ({episode['outcome']})" if episode["outcome"] else str(episode["text"])
