"""Bounds this process, ends every descendant of it and empties folders: what a script leaves behind.

Works because the process is a child subreaper (prctl(2)): a grandchild whose parent died becomes a child
of this process, whatever session or process group it went to.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
#: Seconds until a process that SIGKILL does not end (one in a hung disk) is given up.
_PATIENCE = 5.0


def limit(bounds: dict[str, int]) -> None:
    """Set resource limits by their names in lower case; one that is tighter already stays.

    CPU time has a second between the signal that tells what happened and the one that kills.
    """
    for name, soft in bounds.items():
        kind = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = soft + 1 if name == "cpu" else soft
        highest = resource.getrlimit(kind)[1]
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(kind, (soft, hard))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def shut(closed: bool) -> None:
    """Forbid (or allow again) that a process of the same user reads or changes this one's memory."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0 if closed else 1, 0, 0, 0)


def end_descendants() -> bool:
    """Kill and reap all; false if one is still there after some seconds."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if not _reap():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)


def _reap() -> bool:
    """Collect the dead; true while there are children."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as listing:
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return _children_by_scan()


def _children_by_scan() -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(name))
    return found


def empty(folder: str) -> bool:
    """Remove all that lies in a folder; false if something would not go."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                _remove(entry)
    except (OSError, RecursionError):
        return False
    return True


def ipc_left() -> bool:
    """Whether the IPC namespace holds anything of System V (svipc(7)); each list has a line of titles."""
    for kind in ("shm", "sem", "msg"):
        with open(f"/proc/sysvipc/{kind}", "rb") as listing:
            if listing.read().count(b"\n") > 1:
                return True
    return False


def _remove(entry: os.DirEntry[str]) -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.path)
        return
    os.chmod(entry.path, 0o700)
    with os.scandir(entry.path) as entries:
        for inner in entries:
            _remove(inner)
    os.rmdir(entry.path)
