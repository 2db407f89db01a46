"""What was used of models: by flow, step, model and day, in tokens and US dollars."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from appliance.ai.gateway.sums import Sum, summed, within
from appliance.gateway.common import InWorkspace
from appliance.gateway.routing import Call, Nothing, Noun

noun = Noun("usage", "What was used of models, what it cost, and what is left of the engine's budgets.")

By = Literal["day", "flow", "node", "model"]


class WhichUsage(InWorkspace, frozen=True):
    """Which of it. What is no flow's (tokens of other programs, drafts) is told for all workspaces only (`*`)."""

    days: Annotated[int, Meta(ge=1, le=3660, description="So many days back, today included")] = 30
    flow: Annotated[str, Meta(max_length=100, description="Only this flow (its id)")] = ""
    by: Annotated[list[By], Meta(max_length=4, description="What the sums are by; several make finer ones")] = []


class Budget(Struct, frozen=True, kw_only=True):
    """A budget of the engine or of an upstream that is set: `held` is what questions under way may still cost."""

    setting: str
    bound: float
    spent: float
    held: float


class Usage(Struct, frozen=True, kw_only=True):
    """Sums by what was asked for, and all together. `budgets` are told to who may see the whole engine's usage."""

    today: str
    items: list[Sum]
    total: Sum
    budgets: list[Budget]


@noun.get("/usage", permission="runs:read", errors=(503,))
def show(call: Call[WhichUsage, Nothing]) -> Usage:
    """What was used of models in the last days."""
    told = call.gateway.call("model_usage")
    first = datetime.date.fromisoformat(told["today"]) - datetime.timedelta(days=call.query.days - 1)
    items, total = summed(_mine(call, within(told["rows"], first.isoformat())), call.query.by)
    budgets = [Budget(**budget) for budget in told["budgets"]] if call.workspace == "*" else []
    return Usage(today=told["today"], items=items, total=total, budgets=budgets)


def _mine(call: Call[WhichUsage, Nothing], rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines that were asked for, with the flow's id in place of its number."""
    names = call.gateway.names
    for row in rows:
        flow = names.flow(row["flow"]) if row["flow"] else None
        told = flow.id if flow else ""
        inside = call.workspace == "*" or (flow is not None and flow.workspace == call.workspace)
        if inside and call.query.flow in ("", told):
            yield {**row, "flow": told}
