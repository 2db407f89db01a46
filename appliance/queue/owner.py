"""Names a process so that its death can be proved later, even when its pid was given to another one.

An owner is ``boot id/pid namespace/pid/start time``. The start time (clock ticks since boot, field 22 of
proc_pid_stat(5)) tells a reused pid from the old one, the boot id tells a reboot, and the namespace tells
a container whose pids mean nothing here.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

_PROC = Path("/proc")
#: States of a process that is over but has not been waited for, see proc_pid_stat(5).
_OVER = frozenset("ZXx")


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return "unknown"


def _state_and_start(pid: int) -> tuple[str, str] | None:
    """State letter and start time; None where ``/proc`` does not tell (hidepid, no such process)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def this_process() -> str:
    """The owner that names the calling process."""
    return _owner_of(os.getpid())


@functools.cache
def _owner_of(pid: int) -> str:
    known = _state_and_start(pid)
    return "/".join((_boot(), _namespace(), str(pid), known[1] if known else "unknown"))


def is_dead(owner: str) -> bool:
    """Whether that process is provably over. A process of another container is not judged: False."""
    parts = owner.split("/")
    if len(parts) != 4 or not parts[2].isdecimal():
        return True
    boot, namespace, pid, start = parts
    if boot != _boot():
        return True
    if namespace != _namespace():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    known = _state_and_start(int(pid))
    return known is not None and (known[0] in _OVER or known[1] != start)
