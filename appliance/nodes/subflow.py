"""Run another flow and go on with its result.

The other flow runs as a run of its own (to be seen, replayed and retried like any other) with `input` as its
payload; its output is this step's output, its failure is this step's failure.

    {"flow": "water-the-plants", "input": "{{ payload.room }}"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Node, NodeError, Problem, Spawn, Wake, World


class SubflowConfig(Config, frozen=True):
    flow: Annotated[str, Meta(description="The id of the flow", min_length=1)]
    input: Annotated[Any, Meta(description="Its payload; what came in, if left out")] = None


class Subflow(Node[SubflowConfig]):
    Config = SubflowConfig
    title = "Subflow"
    category = "logic"
    icon = "box-in"
    inline = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        flow = config["flow"]
        if "{" not in flow and not world.flow_exists(flow):
            yield Problem("flow", f"there is no flow {flow!r}; save and deploy it first")

    def run(self, ctx: Context, config: SubflowConfig, payload: Any) -> Any:
        return Spawn([payload if config.input is None else config.input], config.flow, concurrency=1)

    def resume(self, ctx: Context, config: SubflowConfig, payload: Any, wake: Wake) -> Any:
        result = wake.value[0]
        if result["ok"]:
            return result.get("output")
        error = result.get("error") or {}
        detail = {"run": result.get("run"), "error": error}
        raise NodeError(f"flow {config.flow!r}: {error.get('message', 'failed')}", retryable=False, detail=detail)
