"""Do something for every item of a list.

`items` is an expression that gives a list. For each item either the `body` (nodes and edges drawn inside this node)
or another flow (`flow`) runs, at most `concurrency` at a time; in it, `payload` is the item and `event.index` its
place. A failed item is tried `attempts` times. The result lists the outputs in order; with `on_error: collect`
failed items appear as `{"error": …}`, with `fail` the first one fails the step and ends the others.

    {"items": "payload.rooms",
     "body": {"nodes": [{"id": "say", "type": "log", "config": {"message": "{{ payload }}"}}]}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import (
    Config,
    Context,
    Duration,
    Expression,
    Graph,
    Node,
    NodeError,
    Problem,
    Spawn,
    Wake,
    World,
    seconds,
)
from appliance.nodes._bodies import check_body, is_cause


class ForEachConfig(Config, frozen=True):
    items: Annotated[Expression, Meta(description="Gives the list", min_length=1)] = "payload"
    body: Annotated[Graph | None, Meta(description="Nodes and edges to run for each item")] = None
    flow: Annotated[str, Meta(description="Or the id of the flow to run for each item")] = ""
    concurrency: Annotated[int, Meta(ge=1, le=100, description="How many at a time")] = 4
    attempts: Annotated[int, Meta(ge=1, le=100, description="How often an item is tried")] = 1
    backoff: Annotated[Duration, Meta(description="Wait before an item's second attempt; doubles")] = 1.0
    on_error: Annotated[Literal["fail", "collect"], Meta(description="What a failed item does")] = "fail"


class ForEach(Node[ForEachConfig]):
    Config = ForEachConfig
    title = "For each"
    category = "logic"
    icon = "repeat"
    inline = True
    has_body = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        yield from check_body(config, world)

    def run(self, ctx: Context, config: ForEachConfig, payload: Any) -> Any:
        items = ctx.eval(config.items)
        if isinstance(items, dict):
            items = [{"key": key, "value": value} for key, value in items.items()]
        if not isinstance(items, list | tuple):
            raise NodeError(f"`items` must give a list, not {type(items).__name__}", retryable=False)
        return Spawn(
            list(items),
            config.flow,
            config.concurrency,
            config.attempts,
            seconds(config.backoff),
            config.on_error == "fail",
        )

    def resume(self, ctx: Context, config: ForEachConfig, payload: Any, wake: Wake) -> Any:
        results: list[dict[str, Any]] = wake.value
        failed = [index for index, result in enumerate(results) if not result["ok"]]
        if failed and config.on_error == "fail":
            first = next((i for i in failed if is_cause(results[i])), failed[0])
            error = results[first].get("error") or {}
            reason = error.get("message", "failed")
            detail = {"index": first, "run": results[first].get("run"), "error": error}
            raise NodeError(f"item {first} of {len(results)}: {reason}", retryable=False, detail=detail)
        return [result.get("output") if result["ok"] else {"error": result.get("error")} for result in results]
