"""The camera driver against the kernel's own test camera (vivid). ``scripts/test --gpio`` runs this."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.base import DriverError
from drivers.camera import Camera, CameraConfig
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard
from tests.drivers.test_camera import pixels


def cameras() -> list[str]:
    """Those of vivid that take pictures; it has outputs as well."""
    found = []
    for name in sorted(glob.glob("/sys/class/video4linux/video*/name")):
        if "vid-cap" in Path(name).read_text():
            found.append(f"/dev/{Path(name).parent.name}")
    return found


if not cameras():
    pytest.skip("no vivid in this kernel: scripts/test --gpio", allow_module_level=True)


@pytest.fixture
def config() -> CameraConfig:
    return CameraConfig(device=cameras()[0], width=640, height=360, skip=1, interval=0.5)


@pytest.fixture
def driver(config: CameraConfig, host: FakeHost) -> Iterator[Camera]:
    made = Camera(config, host)
    yield made
    made.close()


class TestContract(Contract):
    pass


def test_a_picture_is_taken_by_command(driver: Camera, host: FakeHost) -> None:
    driver.open()
    answer = driver.write({"snapshot": True})
    assert answer["image"]["type"] == "image/png"
    width, height, lines = pixels(host.blobs[answer["image"]["$blob"]])
    assert (width, height) == (answer["width"], answer["height"])
    # A test picture: columns of many colours.
    middle = lines[height // 2]
    assert len({middle[place : place + 3] for place in range(0, len(middle), 3)}) >= 6


def test_pictures_are_taken_on_an_interval(driver: Camera, host: FakeHost, heard: Heard) -> None:
    driver.open()
    stop = driver.events(heard)
    heard.kind("snapshot", 2)
    stop()
    observed(heard, host)


def test_a_camera_in_use_is_told(driver: Camera, config: CameraConfig, host: FakeHost, heard: Heard) -> None:
    import fcntl

    from drivers.support import v4l2

    driver.open()
    with Path(config.device).open("rb+", buffering=0) as other:
        fcntl.ioctl(other, v4l2._REQBUFS, bytearray(v4l2._REQUEST.pack(2, 1, 1, 0, 0, b"")))
        with pytest.raises(DriverError, match="in use by another program"):
            driver.write({"snapshot": True})
    assert driver.write({"snapshot": True})["width"]
