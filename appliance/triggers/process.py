"""Starts a run when a program starts, ends, or is too busy or too large.

`name`, `cmdline` (shell patterns) and `user` say which programs; at least one is needed. `exited` has the exit
`code` or the `signal`, where the kernel tells it (the agent runs as root or with CAP_NET_ADMIN; else it looks once a
second, and misses programs that live shorter). `cpu` (percent of one core) and `memory` (MiB) are limits that a program
passes when it is over them for `hold`: then come `cpu_high` and `memory_high`, and `…_normal` once it is well below.

    {"name": "backup.sh", "events": ["exited"]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

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
    driver_settings,
    seconds,
)
from appliance.triggers._devices import listen

_WHICH = ("name", "cmdline", "user")
_NAMES = (*_WHICH, "cpu", "memory")
_NOBODY = "say which programs: name, cmdline or user"
_Kind = Literal["started", "exited", "cpu_high", "cpu_normal", "memory_high", "memory_normal", "overflow"]


class ProcessConfig(Config, frozen=True, kw_only=True):
    name: Annotated[str | UnsetType, Meta(title="Name", description="Of the program: nginx, python3*")] = UNSET
    cmdline: Annotated[str | UnsetType, Meta(title="Command line", description="*backup.sh*")] = UNSET
    user: Annotated[str | UnsetType, Meta(title="User", description="Who runs it")] = UNSET
    agent: Agent = ""
    cpu: Annotated[
        Annotated[float, Meta(ge=0)] | UnsetType, Meta(title="CPU limit", description="Percent of one core")
    ] = UNSET
    memory: Annotated[Annotated[float, Meta(ge=0)] | UnsetType, Meta(title="Memory limit", description="MiB")] = UNSET
    hold: Annotated[Duration | None, Meta(description="How long over a limit counts")] = None
    events: Annotated[tuple[_Kind, ...], Meta(description="What starts a run")] = ("started", "exited")
    options: Options = {}


class Process(Trigger[ProcessConfig]):
    Config = ProcessConfig
    title = "Program starts or ends"
    icon = "activity"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if not any(config.get(name) for name in _WHICH):
            yield Problem("name", _NOBODY)
        yield from driver_faults(config, "process", _NAMES, world)

    def attach(self, ctx: TriggerContext, config: ProcessConfig) -> Callable[[], None]:
        if not any(getattr(config, name) for name in _WHICH):
            raise ConfigError(_NOBODY)
        driver = driver_settings(config, *_NAMES)
        if config.hold is not None:
            driver["hold"] = seconds(config.hold)
        return listen(ctx, config.agent, "process", driver, lambda event: event.kind in config.events)
