"""Takes a picture with a camera.

`device` is a path; those under `/dev/v4l/by-id/` stay the same in every socket. The result's `image` is a blob (JPEG or
PNG) that other steps can send, write to a file (`payload.image`) or show to a model; `width` and `height` are those of
the picture. The camera is held only while the picture is taken. After a crash another one is taken. A Raspberry Pi's
own camera module works only through libcamera's programs: use the `command` node for it.

    {"device": "/dev/video0", "width": 1280, "height": 720}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from appliance.contracts import (
    Agent,
    Config,
    Context,
    Effect,
    Node,
    Options,
    Pending,
    Problem,
    World,
    driver_faults,
    driver_settings,
)
from appliance.nodes._devices import command

_NAMES = ("device", "width", "height")


class CameraSnapshotConfig(Config, frozen=True, kw_only=True):
    device: Annotated[
        str | UnsetType, Meta(title="Camera", description="A path; left out: the first one, /dev/video0")
    ] = UNSET
    agent: Agent = ""
    width: Annotated[Annotated[int, Meta(ge=16, le=8192)] | UnsetType, Meta(description="In pixels, a wish")] = UNSET
    height: Annotated[Annotated[int, Meta(ge=16, le=8192)] | UnsetType, Meta(description="In pixels, a wish")] = UNSET
    options: Options = {}


class CameraSnapshot(Node[CameraSnapshotConfig]):
    Config = CameraSnapshotConfig
    title = "Take a picture"
    category = "devices"
    icon = "camera"
    effect = Effect.IDEMPOTENT
    inline = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        return driver_faults(config, "camera", _NAMES, world)

    def run(self, ctx: Context, config: CameraSnapshotConfig, payload: Any) -> Pending:
        return command(
            ctx, config.agent, "camera", driver_settings(config, *_NAMES), {"snapshot": True}, repeatable=True
        )
