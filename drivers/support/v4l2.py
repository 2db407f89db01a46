"""One frame from a camera by the kernel's Video4Linux API (linux/videodev2.h), without a library.

Python's ``struct`` lays the structures out as this machine's C compiler does (``@``).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import struct
import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from drivers.base import DriverError
from drivers.support.images import FORMATS

_CAPABILITY = struct.Struct("@16s32s32sII I 3I")
_FORMAT_ENTRY = struct.Struct("@III32sII3I")
_FORMAT = struct.Struct("@I0L200s")
_PIXELS = struct.Struct("@IIIIII")  # width, height, code, field, bytes of a line, bytes of a frame
_REQUEST = struct.Struct("@IIIIB3s")
_BUFFER = struct.Struct("@5I2l2I8B2IL3I0L")

_CAPTURE, _MMAP = 1, 1
_CAN_CAPTURE, _CAN_STREAM, _HAS_DEVICE_CAPS = 0x1, 0x04000000, 0x80000000
_BUFFERS = 2
#: Where in ``_BUFFER`` what stands.
_INDEX, _USED, _FLAGS, _OFFSET, _LENGTH = 0, 2, 3, 19, 20
_FLAG_ERROR = 0x40


class Frame(Struct, frozen=True):
    data: bytes
    code: str
    width: int
    height: int
    stride: int


def name(path: str) -> str:
    """What the camera calls itself. Raises ``DriverError``."""
    fd = _open(path)
    try:
        return _check(fd, path)
    finally:
        os.close(fd)


def capture(
    path: str, width: int, height: int, skip: int, timeout: float, stopping: Callable[[], bool] = lambda: False
) -> Frame:
    """One frame of about that size, the first ``skip`` left out: a camera needs some to find the light.

    Raises ``DriverError``; within 0.2 s once ``stopping`` is true.
    """
    fd = _open(path)
    maps: list[mmap.mmap] = []
    try:
        _check(fd, path)
        code, wide, high, stride = _set_format(fd, path, width, height)
        maps = [_map(fd, index) for index in range(_request(fd, _BUFFERS))]
        for index in range(len(maps)):
            _ioctl(fd, _QBUF, _buffer(index))
        _ioctl(fd, _STREAMON, bytearray(struct.pack("@i", _CAPTURE)))
        try:
            deadline = time.monotonic() + timeout
            for _ in range(skip + 1):
                data = _next(fd, path, maps, deadline, stopping)
        finally:
            _ioctl(fd, _STREAMOFF, bytearray(struct.pack("@i", _CAPTURE)))
        return Frame(data, code, wide, high, stride)
    except OSError as exc:
        raise _refusal(exc, path) from exc
    finally:
        for each in maps:
            each.close()
        os.close(fd)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _refusal(exc, path) from exc


def _check(fd: int, path: str) -> str:
    answer = bytearray(_CAPABILITY.size)
    try:
        _ioctl(fd, _QUERYCAP, answer)
    except OSError as exc:
        raise DriverError(f"{path} is not a camera", retryable=False) from exc
    _, card, _, _, whole, own, *_ = _CAPABILITY.unpack(answer)
    abilities = own if whole & _HAS_DEVICE_CAPS else whole
    if not abilities & _CAN_CAPTURE or not abilities & _CAN_STREAM:
        raise DriverError(
            f"{path} gives no pictures; a camera often has several numbers, try the next", retryable=False
        )
    return str(card.split(b"\0")[0].decode(errors="replace"))


def _set_format(fd: int, path: str, width: int, height: int) -> tuple[str, int, int, int]:
    """What the camera made of the wish: code, width, height, bytes of a line."""
    there = list(_codes(fd))
    code = next((code for code in FORMATS if code in there), None)
    if code is None:
        raise DriverError(
            f"{path} gives only {', '.join(there)}, which nobody here can read; "
            "a camera module of a Raspberry Pi needs libcamera's programs",
            retryable=False,
        )
    wish = _PIXELS.pack(width, height, int.from_bytes(code.encode(), "little"), 0, 0, 0)
    form = bytearray(_FORMAT.pack(_CAPTURE, wish))
    _ioctl(fd, _S_FMT, form)
    wide, high, number, _, stride, _ = _PIXELS.unpack_from(_FORMAT.unpack(form)[1])
    if number != int.from_bytes(code.encode(), "little"):
        raise DriverError(f"{path} does not keep to the format {code}")
    return code, wide, high, stride


def _codes(fd: int) -> Iterator[str]:
    for index in range(64):
        entry = bytearray(_FORMAT_ENTRY.pack(index, _CAPTURE, 0, b"", 0, 0, 0, 0, 0))
        try:
            _ioctl(fd, _ENUM_FMT, entry)
        except OSError:
            return
        yield _FORMAT_ENTRY.unpack(entry)[4].to_bytes(4, "little").decode("latin-1").strip()


def _request(fd: int, count: int) -> int:
    request = bytearray(_REQUEST.pack(count, _CAPTURE, _MMAP, 0, 0, b""))
    _ioctl(fd, _REQBUFS, request)
    given: int = _REQUEST.unpack(request)[0]
    return given


def _map(fd: int, index: int) -> mmap.mmap:
    buffer = _buffer(index)
    _ioctl(fd, _QUERYBUF, buffer)
    fields = _BUFFER.unpack(buffer)
    return mmap.mmap(fd, fields[_LENGTH], offset=fields[_OFFSET])


def _buffer(index: int) -> bytearray:
    fields = [0] * 23
    fields[_INDEX], fields[1], fields[18] = index, _CAPTURE, _MMAP
    return bytearray(_BUFFER.pack(*fields))


def _next(fd: int, path: str, maps: list[mmap.mmap], deadline: float, stopping: Callable[[], bool]) -> bytes:
    """A copy of the next whole frame."""
    while True:
        if stopping():
            raise DriverError("stopped")
        if time.monotonic() > deadline:
            raise DriverError(f"{path} gave no picture in time")
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        buffer = _buffer(0)
        try:
            _ioctl(fd, _DQBUF, buffer)
        except BlockingIOError:
            continue
        fields = _BUFFER.unpack(buffer)
        data = bytes(maps[fields[_INDEX]][: fields[_USED]])
        _ioctl(fd, _QBUF, _buffer(fields[_INDEX]))
        if data and not fields[_FLAGS] & _FLAG_ERROR:
            return data


def _number(direction: int, command: int, size: int) -> int:
    """asm-generic/ioctl.h; 1 writes, 2 reads, 3 does both."""
    return direction << 30 | size << 16 | ord("V") << 8 | command


_QUERYCAP = _number(2, 0, _CAPABILITY.size)
_ENUM_FMT = _number(3, 2, _FORMAT_ENTRY.size)
_S_FMT = _number(3, 5, _FORMAT.size)
_REQBUFS = _number(3, 8, _REQUEST.size)
_QUERYBUF = _number(3, 9, _BUFFER.size)
_QBUF = _number(3, 15, _BUFFER.size)
_DQBUF = _number(3, 17, _BUFFER.size)
_STREAMON = _number(1, 18, struct.calcsize("@i"))
_STREAMOFF = _number(1, 19, struct.calcsize("@i"))


def _ioctl(fd: int, request: int, argument: bytearray) -> None:
    fcntl.ioctl(fd, request, argument)


def _refusal(exc: OSError, path: str) -> DriverError:
    if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return DriverError(f"there is no camera at {path}: is it plugged in?")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return DriverError(
            f"{path} may not be opened: add the account to the group that owns it "
            "(often: sudo usermod -aG video USER), then start the agent again"
        )
    if exc.errno == errno.EBUSY:
        return DriverError(f"{path} is in use by another program: end it (sudo fuser {path} names it)")
    return DriverError(f"{path}: {exc.strerror}")
