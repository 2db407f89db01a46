"""What nodes that command devices have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from appliance.contracts import ConfigError, Context, Pending, Problem, World

Agent = Annotated[
    str, Meta(title="Agent", description="The machine it hangs on, by the agent's name; empty: this one", max_length=40)
]
Options = Annotated[
    dict[str, Any], Meta(title="Further settings", description="Other settings of the driver, by their names")
]
Repeatable = Annotated[
    bool, Meta(title="Repeatable", description="Doing it twice does no harm: it is simply done again after a crash")
]


def settings(config: Any, *names: str) -> dict[str, Any]:
    """The driver's config: those fields that were given, and ``options``. What is left out is as the driver has it."""
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not UNSET}
    if twice := sorted(given.keys() & config.options.keys()):
        raise ConfigError(f"options: {twice[0]} has a field of its own; leave it out here")
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(given | config.options))
    return found


def faults(raw: Mapping[str, Any], driver: str, names: tuple[str, ...], world: World) -> Iterable[Problem]:
    """What a driver or the list of agents has against a config as saved."""
    config = {name: raw[name] for name in names if name in raw} | dict(raw.get("options", {}))
    if fault := world.device_fault(raw.get("agent", ""), driver, config):
        yield Problem("agent" if fault.startswith("there is no agent") else "", fault)


def command(
    ctx: Context,
    agent: str,
    driver: str,
    config: Mapping[str, Any],
    wanted: Mapping[str, Any],
    repeatable: bool,
) -> Pending:
    """Completes with the driver's acknowledgement; a repetition of this step is not carried out twice."""
    return ctx.devices.command(agent, driver, config, wanted, ctx.idempotency_key, ctx.deadline, repeatable)
