"""Wait, then go on.

For a time (`for`) or until a moment (`until`: ISO 8601 text or Unix seconds). The wait holds no memory worth
speaking of and survives restarts; it ends at its moment, not a restart later.

    {"for": "10m"}
    {"until": "{{ payload.departure }}"}
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import Meta, field

from appliance.contracts import Config, ConfigError, Context, Duration, Node, Park, Problem, World, seconds


class DelayConfig(Config, frozen=True):
    duration: Annotated[Duration | None, Meta(title="For", description="How long")] = field(name="for", default=None)
    until: Annotated[str | float | None, Meta(description="Or until when: ISO 8601 or Unix seconds")] = None


class Delay(Node[DelayConfig]):
    Config = DelayConfig
    title = "Delay"
    category = "time"
    icon = "hourglass"
    inline = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if (config.get("for") is None) == (config.get("until") is None):
            yield Problem("for", "give either `for` (how long) or `until` (a moment)")

    def run(self, ctx: Context, config: DelayConfig, payload: Any) -> Any:
        if config.duration is not None:
            return Park(until=ctx.now() + seconds(config.duration))
        return Park(until=_moment(config.until))


def _moment(value: str | float | None) -> float:
    """Unix seconds; text without a zone is UTC."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(str(value))
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(f"until: {value!r} is neither ISO 8601 nor Unix seconds") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
