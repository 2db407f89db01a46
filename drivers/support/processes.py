"""What can be known of the processes of this machine. The drivers' only importer of psutil."""

from __future__ import annotations

import fnmatch
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import psutil

_LONGEST = 1000


class Process(Struct):
    """A process as it was first seen; ``began`` is Unix seconds."""

    pid: int
    name: str
    cmdline: str
    user: str
    parent: int
    began: float
    handle: Any = None  # psutil's, which knows a pid that was given to another process

    def told(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "name": self.name,
            "cmdline": self.cmdline,
            "user": self.user,
            "parent": self.parent,
            "began": round(self.began, 3),
        }

    def load(self) -> tuple[float, float] | None:
        """Percent of one core since the last call, MiB of memory; ``None`` once it is gone."""
        import psutil

        try:
            with self.handle.oneshot():
                return self.handle.cpu_percent(None), self.handle.memory_info().rss / 1048576
        except psutil.Error:
            return None

    def lives(self) -> bool:
        """Whether the pid is still this process."""
        running: bool = self.handle.is_running()
        return running


class Wanted(Struct, frozen=True):
    """Which processes are meant: shell patterns; empty ones mean any."""

    name: str = ""
    cmdline: str = ""
    user: str = ""

    def fits(self, process: Process) -> bool:
        return (
            (not self.name or fnmatch.fnmatchcase(process.name, self.name))
            and (not self.user or process.user == self.user)
            and (not self.cmdline or fnmatch.fnmatchcase(process.cmdline, self.cmdline))
        )


def pids() -> list[int]:
    import psutil

    return psutil.pids()


def age(pid: int) -> float:
    """Seconds since it was forked, 0 if it is gone; psutil's ``create_time`` is up to a second off."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0.0
    ticks = int(stat.rpartition(")")[2].split()[19])  # proc(5): field 22
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def look(pid: int, now: float) -> Process | None:
    """What there is to know of a process at the moment ``now`` (Unix seconds); ``None`` when it is gone already."""
    import psutil

    try:
        handle = psutil.Process(pid)
        with handle.oneshot():
            return Process(
                pid,
                handle.name(),
                _cmdline(handle),
                _user(handle),
                handle.ppid(),
                now - age(pid),
                handle,
            )
    except (psutil.Error, OSError):
        return None


def _cmdline(handle: psutil.Process) -> str:
    import psutil

    try:
        return " ".join(handle.cmdline())[:_LONGEST]
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return ""


def _user(handle: psutil.Process) -> str:
    import psutil

    try:
        return handle.username()
    except (psutil.AccessDenied, psutil.ZombieProcess, KeyError):
        return ""
