"""Starts a run when a file comes, changes, moves or goes in a folder.

`patterns` and `ignore` are shell patterns. A file that is still being written is not told before it is closed and has
been quiet for `settle`. What changed while the agent was down is found by comparing, and told with `missed`; files that
are there when the flow is first deployed start runs only with `existing`. The run's `payload.value` has the file's
`path`, `name` (within the folder), `size` and `modified`. `recursive` looks into folders within, too. Network mounts
are looked through every `poll` seconds (see `options`), other folders tell by themselves.

    {"folder": "/srv/scans", "patterns": ["*.pdf"], "events": ["created"]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from appliance.contracts import (
    Agent,
    Config,
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

_NAMES = ("folder", "patterns", "ignore", "recursive", "existing")
_CHANGES = ("created", "changed", "moved", "deleted")


class FileConfig(Config, frozen=True, kw_only=True):
    folder: Annotated[str, Meta(title="Folder", description="An absolute path", min_length=1)]
    agent: Agent = ""
    patterns: Annotated[
        tuple[str, ...] | UnsetType, Meta(title="Patterns", description="Which files; left out: all")
    ] = UNSET
    ignore: Annotated[
        tuple[str, ...] | UnsetType, Meta(title="Ignore", description="Left out: hidden and temporary files")
    ] = UNSET
    recursive: Annotated[bool | UnsetType, Meta(description="Folders within too")] = UNSET
    existing: Annotated[bool | UnsetType, Meta(description="Also the files that are there at the start")] = UNSET
    settle: Annotated[Duration | None, Meta(description="How long a file has to be quiet")] = None
    events: Annotated[
        tuple[Literal["created", "changed", "moved", "deleted", "lost", "gap"], ...],
        Meta(description="What starts a run", min_length=1),
    ] = ("created", "changed")
    options: Options = {}


class File(Trigger[FileConfig]):
    Config = FileConfig
    title = "File comes or changes"
    icon = "file"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        folder = config["folder"]
        if not folder.startswith("/") and "{{" not in folder:
            yield Problem("folder", "must be an absolute path, such as /srv/scans")
        yield from driver_faults(config, "files", _NAMES, world)

    def attach(self, ctx: TriggerContext, config: FileConfig) -> Callable[[], None]:
        driver = driver_settings(config, *_NAMES)
        if config.settle is not None:
            driver["settle"] = seconds(config.settle)
        # The driver need not look for what starts nothing.
        if wanted := [change for change in _CHANGES if change in config.events]:
            driver.setdefault("changes", wanted)
        return listen(ctx, config.agent, "files", driver, lambda event: event.kind in config.events)
