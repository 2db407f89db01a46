"""Looks at this engine: is it well, which flows are there, how runs ended, what waits for a person.

`health` tells problems in words; `flows` the live flows with their last run; `runs` the newest runs, of a `flow` or in
a `state` (`failed`, `running` …) if given; `waiting` the questions that stand. Only the flow's own workspace is seen.
It is meant as a tool for an AI agent, and for reports.

    {"what": "runs", "state": "failed", "limit": 5}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import Config, Context, Node


class EngineConfig(Config, frozen=True):
    what: Annotated[Literal["health", "flows", "runs", "waiting"], Meta(title="What", description="To look at")] = (
        "health"
    )
    flow: Annotated[str, Meta(title="Flow", description="Only runs of this flow (its id)")] = ""
    state: Annotated[str, Meta(title="State", description="Only runs in this state")] = ""
    limit: Annotated[int, Meta(title="How many", description="Runs, newest first", ge=1, le=100)] = 20


class Engine(Node[EngineConfig]):
    Config = EngineConfig
    title = "Engine"
    category = "ai"
    icon = "gauge"

    async def run(self, ctx: Context, config: EngineConfig, payload: Any) -> Any:
        overview = ctx.overview
        if config.what == "health":
            return await overview.health()
        if config.what == "flows":
            return await overview.flows()
        if config.what == "waiting":
            return await overview.waiting()
        return await overview.runs(flow=config.flow, state=config.state, limit=config.limit)
