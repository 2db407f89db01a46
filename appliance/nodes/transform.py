"""Make new data from what came in.

`set` names the values of the result; each is a template, and a text that is exactly one `{{ … }}` keeps its type.
With `keep` the incoming object is kept and only changed. `expression` computes the whole result instead.

    {"set": {"celsius": "{{ (payload.f - 32) * 5 / 9 }}", "room": "{{ event.topic }}"}}
    {"expression": "payload.readings | map(attribute='t') | list"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Expression, Node, NodeError, Problem, World


class TransformConfig(Config, frozen=True):
    set: Annotated[dict[str, Any], Meta(title="Values", description="Names and values of the result")] = {}
    expression: Annotated[Expression | None, Meta(description="Computes the whole result (instead of `set`)")] = None
    keep: Annotated[bool, Meta(description="Keep what came in and change only the named values")] = False
    remove: Annotated[list[str], Meta(description="Names to leave out of what came in (with `keep`)")] = []


class Transform(Node[TransformConfig]):
    Config = TransformConfig
    title = "Transform"
    category = "data"
    icon = "wand"
    inline = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if bool(config.get("expression")) == bool(config.get("set") or config.get("keep")):
            yield Problem("set", "give either `set` (names and values) or `expression`")
        if config.get("remove") and not config.get("keep"):
            yield Problem("remove", "needs `keep`: without it nothing of what came in is there to be removed")

    def run(self, ctx: Context, config: TransformConfig, payload: Any) -> Any:
        if config.expression:
            return ctx.eval(config.expression)
        if not config.keep:
            return config.set
        if not isinstance(payload, dict):
            raise NodeError("`keep` needs an object to come in, not " + type(payload).__name__, retryable=False)
        kept = {key: value for key, value in payload.items() if key not in config.remove}
        return kept | config.set
