"""Frames become pictures, and what is no camera is told. Real capturing: tests/hardware/test_vivid.py."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from drivers.base import DriverError
from drivers.camera import Camera, CameraConfig
from drivers.support.images import file_of
from tests.drivers.host import FakeHost


def pixels(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and lines of a PNG without filters; every checksum is looked at."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, dict[bytes, bytes]()
    while place < len(png):
        size = int.from_bytes(png[place : place + 4], "big")
        name, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        assert int.from_bytes(png[place + 8 + size : place + 12 + size], "big") == zlib.crc32(name + body)
        chunks[name] = body
        place += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    data = zlib.decompress(chunks[b"IDAT"])
    step = len(data) // height
    assert all(data[line * step] == 0 for line in range(height))
    return width, height, [data[line * step + 1 : (line + 1) * step] for line in range(height)]


RED, GREEN = b"\xff\x00\x00", b"\x00\xff\x00"


@pytest.mark.parametrize(
    ("code", "frame", "stride", "lines"),
    [
        ("RGB3", RED + GREEN + b"pad" + GREEN + RED, 9, [RED + GREEN, GREEN + RED]),
        ("BGR3", RED[::-1] + GREEN[::-1] + GREEN[::-1] + RED[::-1], 6, [RED + GREEN, GREEN + RED]),
        ("GREY", b"\x01\x02\x03\x04", 2, [b"\x01\x02", b"\x03\x04"]),
        # BT.601: black, white, and red (81, 90, 240) twice.
        ("YUYV", bytes([16, 128, 235, 128]) + bytes([81, 90, 81, 240]), 4, [b"\0\0\0\xff\xff\xff", RED + RED]),
    ],
)
def test_raw_frames_become_png(code: str, frame: bytes, stride: int, lines: list[bytes]) -> None:
    data, mime = file_of(code, frame, 2, 2, stride)
    assert mime == "image/png"
    width, height, found = pixels(data)
    assert (width, height) == (2, 2)
    for line, expected in zip(found, lines, strict=True):
        assert all(abs(a - b) <= 1 for a, b in zip(line, expected, strict=True))


#: A motion JPEG frame: no Huffman table, and a buffer that is longer than the frame.
HEAD, SCAN = b"\xff\xd8\xff\xe0\x00\x04AB", b"\xff\xda\x00\x04xyDATA\xff\xd9"


def test_motion_jpeg_gets_its_tables() -> None:
    data, mime = file_of("MJPG", HEAD + SCAN + b"\0\0\0", 0, 0, 0)
    assert mime == "image/jpeg"
    assert data.startswith(HEAD + b"\xff\xc4\x00\x1f\x00")
    assert data.endswith(SCAN)
    assert len(data) == len(HEAD + SCAN) + 432
    again, _ = file_of("JPEG", data, 0, 0, 0)
    assert again == data


@pytest.mark.parametrize(
    ("code", "frame"), [("RGB3", b"\0" * 11), ("MJPG", b""), ("MJPG", HEAD), ("MJPG", b"\xff\xd8garbage\xff\xd9")]
)
def test_half_a_frame_is_no_picture(code: str, frame: bytes) -> None:
    with pytest.raises(ValueError, match="the frame"):
        file_of(code, frame, 2, 2, 6)


def test_what_is_no_camera_is_told(host: FakeHost, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="no camera at /dev/video250: is it plugged in") as caught:
        Camera(CameraConfig(device="/dev/video250"), host).open()
    assert caught.value.retryable
    with pytest.raises(DriverError, match="/dev/null is not a camera"):
        Camera(CameraConfig(device="/dev/null"), host).open()
