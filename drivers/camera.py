"""Pictures of a camera (USB or any other that Video4Linux knows), on an interval or by command, kept as blobs.

`device` is a path; those under `/dev/v4l/by-id/` stay the same in every socket. The camera is held only while a picture
is taken. It gives JPEG where it can, else PNG; `width` and `height` are wishes. `skip` frames are left out first, in
which it finds the light. With an `interval` each picture is told as `snapshot`; a camera that fails is `lost`. The
command gives back the picture:

    {"snapshot": true}

A Raspberry Pi's own camera module works only through libcamera's programs, not through this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, json

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop, decode_command
from drivers.support import images, v4l2
from drivers.support.worker import Watch, Worker


class CameraConfig(DriverConfig, frozen=True):
    device: Annotated[str, Meta(title="Device", min_length=1)] = "/dev/video0"
    interval: Annotated[float, Meta(title="Seconds between pictures", description="0: none", ge=0, le=86400)] = 0.0
    width: Annotated[int, Meta(title="Width", ge=16, le=8192)] = 1280
    height: Annotated[int, Meta(title="Height", ge=16, le=8192)] = 720
    skip: Annotated[int, Meta(title="Frames left out first", ge=0, le=300)] = 5
    timeout: Annotated[float, Meta(title="Timeout", description="Seconds", gt=0, le=60)] = 10.0


class _Command(Struct, forbid_unknown_fields=True):
    snapshot: bool


class Camera(Driver[CameraConfig]):
    type = "camera"
    title = "Camera"
    Config = CameraConfig

    def __init__(self, config: CameraConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._open = False
        self._watching = Watch()

    @classmethod
    def unavailable(cls) -> str:
        return (
            "" if any(Path("/dev").glob("video*")) else "this machine has no camera (no /dev/video*): is it plugged in?"
        )

    @classmethod
    def resources(cls, config: CameraConfig) -> tuple[str, ...]:
        return (f"camera:{config.device}",)

    def claims(self) -> tuple[str, ...]:
        return (f"camera:{Path(self.config.device).resolve()}",)

    def open(self) -> None:
        v4l2.name(self.config.device)
        with self._lock:
            self._open = True

    def close(self) -> None:
        with self._lock:
            self._open = False
        self._watching.end()

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            if not self._open:
                raise DriverError(f"{self.config.device} is not open")
            if not self.config.interval:
                raise DriverError(f"{self.config.device} has no events without an interval", retryable=False)
            return self._watching.begin(f"camera {self.config.device}", emit, self._watch)

    def write(self, command: Mapping[str, Any]) -> Any:
        if not decode_command(_Command, command, self.config.device).snapshot:
            raise DriverError('the command is {"snapshot": true}', retryable=False)
        return self._snapshot(lambda: not self._open)

    def entities(self) -> list[Entity]:
        schema = json.schema(_Command)["$defs"]["_Command"]
        return [Entity(self.config.device, f"Camera {self.config.device}", "image", "", True, schema)]

    def _snapshot(self, stopping: Callable[[], bool]) -> dict[str, Any]:
        """One picture; several at once wait for each other. Raises ``DriverError``."""
        config = self.config
        with self._taking:
            if stopping():
                raise DriverError(f"{config.device} is not open")
            frame = v4l2.capture(config.device, config.width, config.height, config.skip, config.timeout, stopping)
        try:
            data, mime = images.file_of(frame.code, frame.data, frame.width, frame.height, frame.stride)
        except ValueError as exc:
            raise DriverError(f"{config.device}: {exc}") from None
        return {"image": self.host.blob(data, mime), "width": frame.width, "height": frame.height}

    def _watch(self, worker: Worker) -> None:
        lost: float | None = None
        while not worker.stopping:
            began = self.host.monotonic()
            try:
                picture = self._snapshot(lambda: worker.stopping)
            except DriverError as exc:
                if lost is None and not worker.stopping:
                    lost = began
                    self._tell("lost", exc.message)
            else:
                if lost is not None:
                    self._tell("gap", round(began - lost, 3))
                    lost = None
                self._tell("snapshot", picture)
            if not worker.pause(max(0.0, began + self.config.interval - self.host.monotonic())):
                return

    def _tell(self, kind: str, value: Any) -> None:
        self._watching.tell(Observation(self.config.device, kind, value, self.host.now()))
