"""Remember something from run to run.

A flow's values are durable and change together with the step that changes them: after a crash nothing is counted
twice. They are read anywhere as `state.<key>`. `get` gives the value (or `value` as the default), `set` stores
`value`, `increment` adds it (1 if left out), `append` puts it at the end of a list of at most `limit` entries,
`delete` forgets the key. The result is the value after the change; with `keep` it is the payload as it came.

    {"action": "increment", "key": "doors-{{ payload.room }}"}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import Config, Context, Node, NodeError


class StateConfig(Config, frozen=True):
    action: Annotated[Literal["get", "set", "increment", "append", "delete"], Meta(description="What to do")]
    key: Annotated[str, Meta(description="The value's name", min_length=1, max_length=200)]
    value: Annotated[Any, Meta(description="What to store, add or append; the default for `get`")] = None
    limit: Annotated[int, Meta(ge=1, le=10_000, description="Longest list of `append`; the oldest go")] = 100
    keep: Annotated[bool, Meta(description="Give the payload on, not the value")] = False


class State(Node[StateConfig]):
    Config = StateConfig
    title = "State"
    category = "data"
    icon = "memory"
    inline = True

    def run(self, ctx: Context, config: StateConfig, payload: Any) -> Any:
        value = self._change(ctx, config)
        return payload if config.keep else value

    def _change(self, ctx: Context, config: StateConfig) -> Any:
        if config.action == "get":
            return ctx.state.get(config.key, config.value)
        if config.action == "delete":
            ctx.state.delete(config.key)
            return None
        value = config.value
        if config.action == "increment":
            value = _sum(config.key, ctx.state.get(config.key, 0), 1 if value is None else value)
        elif config.action == "append":
            value = _appended(config.key, ctx.state.get(config.key, []), value, config.limit)
        ctx.state.set(config.key, value)
        return value


def _sum(key: str, old: Any, step: Any) -> float | int:
    for number in (old, step):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise NodeError(f"state {key!r}: {number!r} is not a number", retryable=False)
    total: float | int = old + step
    return total


def _appended(key: str, old: Any, value: Any, limit: int) -> list[Any]:
    if not isinstance(old, list):
        raise NodeError(f"state {key!r} is not a list", retryable=False)
    return [*old, value][-limit:]
