"""Makes a file that any browser shows of a frame as a camera gives it. No library: nothing here is done often."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable

#: Four-letter codes of V4L2, the ones that cost least first.
FORMATS = ("MJPG", "JPEG", "RGB3", "BGR3", "YUYV", "GREY")

#: The Huffman tables of the JPEG standard (annex K.3), which motion JPEG leaves out.
_HUFFMAN = zlib.decompress(
    base64.b64decode(
        "eNr7f4RBnoGBkZURDBiggJGJmYWVjZ2Dk4v7/xGGrQIMTIzMzEwszKysLCxA2VqgPAOLIKuQoqEjm3BgIrtSoYhR48SFHMpOGw+KBl38oGKcVNTE"
        "ySUmLiEppaqmrqGpZWJqZm5haeXs4urm7uHpFRwSGhYeERmVnJKalp6RmVVcUlpWXlFZ1dzS2tbe0dk1afKUqdOmz5g5a9HiJUuXLV+xctWmzVu2"
        "btu+Y+euQ4ePHD12/MTJU5cuX7l67fqNm7cePnr85Omz5y9evvr46fOXr9++//j5C+hseUYGZkYYwOovQaC/mFhYmFnYQf5iZCoHKRBkYVU0ZBNy"
        "DGRPLBRWMmrkEHGauHDjQU5l46APoklFF7nEVEweqn4EeQ3sM+I81kSWz+Aeg/sLAED3qXc="
    )
)


def file_of(code: str, frame: bytes, width: int, height: int, stride: int) -> tuple[bytes, str]:
    """The file and its MIME type; ``stride`` is the bytes of a line. Raises ``ValueError`` for half a frame."""
    if code in ("MJPG", "JPEG"):
        return _jpeg(frame), "image/jpeg"
    pixel = {"RGB3": 3, "BGR3": 3, "YUYV": 2, "GREY": 1}[code]
    lines = [frame[line * stride : line * stride + width * pixel] for line in range(height)]
    if len(lines[-1]) < width * pixel:
        raise ValueError("the frame is not whole")
    if code == "GREY":
        return _png(lines, width, grey=True), "image/png"
    converters: dict[str, Callable[[bytes], bytes]] = {"RGB3": bytes, "BGR3": _from_bgr, "YUYV": _from_yuyv}
    return _png([converters[code](line) for line in lines], width, grey=False), "image/png"


def _jpeg(frame: bytes) -> bytes:
    end = frame.rfind(b"\xff\xd9")  # drivers fill the buffer up behind it
    if not frame.startswith(b"\xff\xd8") or end < 0:
        raise ValueError("the frame is not whole")
    frame = frame[: end + 2]
    place = 2
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker, size = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == 0xC4:
            return frame
        if marker == 0xDA:
            return frame[:place] + _HUFFMAN + frame[place:]
        place += 2 + size
    raise ValueError("the frame is no JPEG")


def _png(lines: list[bytes], width: int, *, grey: bool) -> bytes:
    """W3C PNG: eight bits a channel, no filter."""
    head = struct.pack(">IIBBBBB", width, len(lines), 8, 0 if grey else 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines), 6)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _from_bgr(line: bytes) -> bytes:
    turned = bytearray(line)
    turned[0::3], turned[2::3] = line[2::3], line[0::3]
    return bytes(turned)


def _from_yuyv(line: bytes) -> bytes:
    """ITU-R BT.601, studio range, two pixels to a pair of colours."""
    found = bytearray(len(line) // 2 * 3)
    for half in (0, 1):
        for pixel, (y, u, v) in enumerate(zip(line[2 * half :: 4], line[1::4], line[3::4], strict=False)):
            light, blue, red = 298 * (y - 16) + 128, u - 128, v - 128
            place = 6 * pixel + 3 * half
            found[place] = _byte(light + 409 * red)
            found[place + 1] = _byte(light - 100 * blue - 208 * red)
            found[place + 2] = _byte(light + 516 * blue)
    return bytes(found)


def _byte(value: int) -> int:
    return min(255, max(0, value >> 8))
