"""GPIO chips and lines of this machine: finds the one that is meant, and says in words why it cannot be had.

The only importer of gpiod, the bindings of libgpiod 2 (https://libgpiod.readthedocs.io).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from drivers.base import DriverError

if TYPE_CHECKING:
    import gpiod

_NO_LIBRARY = "GPIO needs the library gpiod 2.2 or newer, which is made for 64-bit Linux: pip install 'gpiod>=2.2'"
_SHOWN = 40


class Place(Struct, frozen=True):
    """A line of a chip on this machine."""

    device: str
    chip: str
    offset: int
    name: str


def library() -> Any:
    """The gpiod module. Raises ``DriverError`` where it is missing or of the old kind."""
    try:
        import gpiod
    except ImportError:
        raise DriverError(_NO_LIBRARY, retryable=False) from None
    if not hasattr(gpiod, "request_lines"):  # 1.x, which pip falls back to on 32-bit boards
        raise DriverError(_NO_LIBRARY, retryable=False)
    return gpiod


def devices(folder: Path) -> list[str]:
    """The paths of all GPIO chips; a Pi has symbolic links to some of them besides."""
    found = [path for path in folder.glob("gpiochip*") if not path.is_symlink()]
    return [str(path) for path in sorted(found, key=lambda path: (len(path.name), path.name))]


def find(folder: Path, chip: str, line: int | str) -> Place:
    """The line by number or name on the chip by name, label or path (empty: see :class:`drivers.gpio.GpioConfig`)."""
    paths = devices(folder)
    if not paths:
        raise DriverError(
            "this machine has no GPIO pins that its kernel knows of (no /dev/gpiochip*); on a Raspberry Pi or another "
            "board with pins check that its own kernel runs, elsewhere use the driver 'sim'"
        )
    known: list[str] = []
    named: list[str] = []
    meant = False
    for path in paths:
        with opened(path) as found:
            info = found.get_info()
            known.append(f"{info.name} ({info.label}, {info.num_lines} lines)")
            if chip and chip not in (info.name, info.label, path):
                continue
            meant = True
            if isinstance(line, int):
                if not chip and len(paths) > 1 and not _is_header(info.label) and _any_header(paths):
                    continue
                if line >= info.num_lines:
                    raise DriverError(f"{info.name} has lines 0 to {info.num_lines - 1}, not {line}", retryable=False)
                return Place(path, info.name, line, found.get_line_info(line).name)
            names = [found.get_line_info(offset).name for offset in range(info.num_lines)]
            if line in names:
                return Place(path, info.name, names.index(line), line)
            named += filter(None, names)
    if not meant:
        raise DriverError(f"there is no GPIO chip {chip!r}; there are {', '.join(known)}")
    there = ", ".join(named[:_SHOWN]) or "none: use the line's number"
    raise DriverError(f"no GPIO line is called {line!r}; names are {there}", retryable=False)


class Edge(Struct, frozen=True):
    """One edge: the logical level behind it, when by the kernel's monotonic clock, its number from 1 on."""

    level: bool
    nanoseconds: int
    number: int


class Line:
    """A line that is held; others are refused it. ``OSError`` when the chip was unplugged.

    One thread may wait for ``fd`` and read edges while another sets the level.
    """

    def __init__(self, request: gpiod.LineRequest) -> None:
        self._request = request
        self._offset = request.offsets[0]
        self.fd = request.fd

    def level(self) -> bool:
        return bool(self._request.get_value(self._offset).value)

    def set(self, level: bool) -> None:
        value = library().line.Value
        self._request.set_value(self._offset, value.ACTIVE if level else value.INACTIVE)

    def waiting(self) -> bool:
        """Whether edges can be read at once."""
        return self._request.wait_edge_events(0)

    def edges(self, most: int) -> list[Edge]:
        """The oldest edges that the kernel keeps; waits if there are none."""
        rising = library().EdgeEvent.Type.RISING_EDGE
        return [
            Edge(event.event_type is rising, event.timestamp_ns, event.line_seqno)
            for event in self._request.read_edge_events(most)
        ]

    def release(self) -> None:
        self._request.release()


def take_input(place: Place, *, edge: str, debounce: float, active_low: bool, bias: str, buffer: int) -> Line:
    """Hold a line to watch it; ``debounce`` is seconds, ``buffer`` the edges kept by the kernel. ``DriverError``."""
    line = library().line
    settings = library().LineSettings(
        direction=line.Direction.INPUT,
        edge_detection=line.Edge[_constant(edge)],
        debounce_period=timedelta(seconds=debounce),
        active_low=active_low,
        bias=line.Bias[_constant(bias)],
    )
    return _take(place, settings, buffer)


def take_output(place: Place, *, level: bool, drive: str, active_low: bool, bias: str) -> Line:
    """Hold a line to set it; it has ``level`` from the first moment. ``DriverError``."""
    line = library().line
    settings = library().LineSettings(
        direction=line.Direction.OUTPUT,
        drive=line.Drive[_constant(drive)],
        output_value=line.Value.ACTIVE if level else line.Value.INACTIVE,
        active_low=active_low,
        bias=line.Bias[_constant(bias)],
    )
    return _take(place, settings, None)


def _constant(word: str) -> str:
    return word.replace("-", "_").upper()


def _take(place: Place, settings: gpiod.LineSettings, buffer: int | None) -> Line:
    try:
        request = library().request_lines(
            place.device, {place.offset: settings}, consumer="flowork", event_buffer_size=buffer
        )
    except OSError as exc:
        with opened(place.device) as chip:
            holder = chip.get_line_info(place.offset).consumer
        raise refusal(exc, f"{place.chip}/{place.offset}", holder) from exc
    return Line(request)


@contextmanager
def opened(path: str) -> Iterator[gpiod.Chip]:
    """The chip, for a moment. Raises ``DriverError``."""
    try:
        chip = library().Chip(path)
    except OSError as exc:
        raise refusal(exc, path) from exc
    try:
        yield chip
    finally:
        chip.close()


def refusal(exc: OSError, what: str, holder: str = "") -> DriverError:
    """The error of the kernel in words."""
    if exc.errno in (errno.EACCES, errno.EPERM):
        user = os.environ.get("USER") or f"user {os.geteuid()}"
        return DriverError(
            f"{what} may not be opened by {user}: add the account to the group that owns it "
            f"(often: sudo usermod -aG gpio {user}), then start the agent again"
        )
    if exc.errno == errno.EBUSY:
        by = f" by {holder!r}" if holder else ""
        return DriverError(f"{what} is in use{by}: end that, or take another line")
    if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return DriverError(f"{what} is not there, or cannot do what is asked ({exc.strerror})")
    if exc.errno == errno.ENOTTY:
        return DriverError(f"{what} is not a GPIO chip", retryable=False)
    if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP):
        return DriverError(f"{what} cannot be set up like this (bias, edges, drive): {exc.strerror}", retryable=False)
    return DriverError(f"{what}: {exc.strerror}")


def _is_header(label: str) -> bool:
    """The chip behind the pin header of a Raspberry Pi, from the first to the 5."""
    return label.startswith("pinctrl-")


def _any_header(paths: list[str]) -> bool:
    for path in paths:
        with opened(path) as chip:
            if _is_header(chip.get_info().label):
                return True
    return False
