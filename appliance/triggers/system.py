"""Starts a run when the machine gets too hot, too full, too busy, or loses its power.

`metric` is what is looked at every `interval`: `cpu`, `memory`, `disk`, `disk_wear`, `battery` in percent, `load`,
`temperature` in °C, `network_in` and `network_out` in kB/s. With `above` or `below` a run starts once the limit has
been passed for `hold` (`high`, `low`), and again once the value is `hysteresis` inside it (`normal`). `link`, `mains`,
`undervoltage` and `throttled` are true or false, and start a run when they change. The run's `payload.value` is the
value. With `every` each reading of that interval starts one.

    {"metric": "temperature", "above": 75, "hysteresis": 5, "hold": "30s"}
    {"metric": "undervoltage"}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from appliance.contracts import (
    Agent,
    Config,
    ConfigError,
    Duration,
    Options,
    Problem,
    Trigger,
    TriggerContext,
    World,
    driver_faults,
    seconds,
)
from appliance.triggers._devices import listen

_TRUTHS = ("link", "mains", "undervoltage", "throttled")
_NO_LIMIT = "say when: above, below, or every"
_Metric = Literal[
    "cpu",
    "load",
    "memory",
    "temperature",
    "disk",
    "disk_wear",
    "network_in",
    "network_out",
    "battery",
    "link",
    "mains",
    "undervoltage",
    "throttled",
]


class SystemConfig(Config, frozen=True, kw_only=True):
    metric: Annotated[_Metric, Meta(title="What", description="What is looked at")]
    agent: Agent = ""
    above: Annotated[float | None, Meta(title="Above", description="Too much is more than this")] = None
    below: Annotated[float | None, Meta(title="Below", description="Too little is less than this")] = None
    hysteresis: Annotated[float, Meta(description="How far inside the limit counts as normal again", ge=0)] = 0.0
    hold: Annotated[Duration, Meta(description="How long past the limit counts")] = 0
    interval: Annotated[Duration | None, Meta(description="Between two looks")] = None
    every: Annotated[Duration | None, Meta(description="Start a run with each reading, so often")] = None
    events: Annotated[
        tuple[Literal["high", "low", "normal", "changed", "reading"], ...], Meta(description="What starts a run")
    ] = ("high", "low", "normal", "changed", "reading")
    options: Options = {}


class System(Trigger[SystemConfig]):
    Config = SystemConfig
    title = "Health of the machine"
    icon = "gauge"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        limits = [config.get(name) for name in ("above", "below", "every")]
        if config["metric"] not in _TRUTHS and all(each is None for each in limits):
            yield Problem("above", _NO_LIMIT)
        given = {"metrics": [config["metric"]], **config.get("options", {})}
        yield from driver_faults({"agent": config.get("agent", ""), "options": given}, "system", (), world)

    def attach(self, ctx: TriggerContext, config: SystemConfig) -> Callable[[], None]:
        driver = {"metrics": [config.metric], **config.options}
        if config.above is not None or config.below is not None:
            limit = {"metric": config.metric, "above": config.above, "below": config.below}
            driver["limits"] = [limit | {"hysteresis": config.hysteresis, "hold": seconds(config.hold)}]
        elif config.every is None and config.metric not in _TRUTHS:
            raise ConfigError(_NO_LIMIT)
        if config.interval is not None:
            driver["interval"] = seconds(config.interval)
        if config.every is not None:
            driver["readings"] = seconds(config.every)
        return listen(ctx, config.agent, "system", driver, lambda event: event.kind in config.events)
