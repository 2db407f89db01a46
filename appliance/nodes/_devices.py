"""What nodes that command devices have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Context, Pending

Repeatable = Annotated[
    bool, Meta(title="Repeatable", description="Doing it twice does no harm: it is simply done again after a crash")
]


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
