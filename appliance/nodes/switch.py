"""Leave by the port of the first rule that is true.

`rules` are tried in order; `otherwise` is the port when none is. To take several ways at
once, put conditions on the edges instead.

    {"rules": [{"port": "hot", "when": "payload.t > 30"}, {"port": "cold", "when": "payload.t < 5"}],
     "otherwise": "fine"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.contracts import Config, Context, Expression, Node, Out, Problem, World

Port = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,40}$")]


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One way out."""

    port: Annotated[Port, Meta(description="The way out")]
    when: Annotated[Expression, Meta(description="Taken if this is true", min_length=1)]


class SwitchConfig(Config, frozen=True):
    rules: Annotated[list[Rule], Meta(min_length=1, max_length=100, description="Tried in this order")]
    otherwise: Annotated[Port, Meta(description="The way out when no rule is true")] = "otherwise"


class Switch(Node[SwitchConfig]):
    Config = SwitchConfig
    title = "Switch"
    category = "logic"
    icon = "signpost"
    ports = ("otherwise",)
    inline = True

    def ports_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        names = [rule["port"] for rule in config.get("rules", [])]
        return tuple(dict.fromkeys([*names, config.get("otherwise", "otherwise")]))

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        for index, rule in enumerate(config["rules"]):
            if rule["port"] == "error":
                yield Problem(f"rules[{index}].port", "`error` is the port for failures; choose another name")

    def run(self, ctx: Context, config: SwitchConfig, payload: Any) -> Any:
        for rule in config.rules:
            if ctx.eval(rule.when):
                return Out(payload, rule.port)
        return Out(payload, config.otherwise)
