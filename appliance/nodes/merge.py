"""Bring several branches together into one value.

It runs once every branch that can still come has come. `mode` says what comes out: `object` has one entry per
branch under its node's id, `list` the values in the order of their nodes' ids, `combine` one object with the
entries of all (later ids win), `first` the first value by id.

    {"mode": "object"}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import Config, Context, Node, NodeError


class MergeConfig(Config, frozen=True):
    mode: Annotated[Literal["object", "list", "combine", "first"], Meta(description="What comes out")] = "object"


class Merge(Node[MergeConfig]):
    Config = MergeConfig
    title = "Merge"
    category = "logic"
    icon = "merge"
    inline = True

    def run(self, ctx: Context, config: MergeConfig, payload: Any) -> Any:
        inputs = dict(sorted(ctx.inputs.items()))
        if config.mode == "object":
            return inputs
        values = list(inputs.values())
        if config.mode == "list":
            return values
        if config.mode == "first":
            return values[0] if values else payload
        combined: dict[str, Any] = {}
        for name, value in inputs.items():
            if not isinstance(value, dict):
                raise NodeError(f"`combine` needs objects; {name!r} gave {type(value).__name__}", retryable=False)
            combined |= value
        return combined
