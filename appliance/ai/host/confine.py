"""What the host takes from itself before it opens a file of a stranger's: network, rights, precedence, memory.

Under systemd the unit does the same from outside; this holds under ``flowork up`` too, where nobody has the right to.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import socket
import struct
from pathlib import Path

#: prctl(2).
_PR_SET_NAME, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 15, 22, 38
#: Numbers of the calls socket(2) and ioprio_set(2), and the name of the architecture (linux/audit.h), by machine.
_MACHINES = {"x86_64": (41, 251, 0xC000003E), "aarch64": (198, 30, 0xC00000B7)}
_IO_URING_SETUP = 425
_X32 = 0x40000000
#: Later than others at the processor and at the disk, and the first to go when memory is short.
_NICE, _IO_CLASS_BEST_EFFORT, _IO_LEVEL, _OOM_SCORE = 5, 2, 7, 800
#: Private memory beside the models' own: Python, the libraries, threads' stacks.
_BESIDE = 1 << 30

_libc = ctypes.CDLL(None, use_errno=True)


def confine(bound: int) -> list[str]:
    """Take it all away, for good; ``bound`` is the bytes that models may use. Returns what could not be done here.

    For the main thread, before there is another one: a filter holds for the threads that come after it.
    """
    missing = []
    _libc.prctl(_PR_SET_NAME, b"flowork-models")
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    _later_at_the_disk()
    with contextlib.suppress(OSError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(max(_OOM_SCORE, int(score.read_text()))))
    # What was asked of a model is in its memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Counts what was allocated, not files that are mapped: weights that are read from disk cost nothing here.
    _lower(resource.RLIMIT_DATA, bound + _BESIDE)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        missing.append(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    if fault := _no_network():
        missing.append(f"without network: {fault}")
    return missing


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _later_at_the_disk() -> None:
    if known := _MACHINES.get(platform.machine()):
        _libc.syscall(known[1], 1, 0, _IO_CLASS_BEST_EFFORT << 13 | _IO_LEVEL)


def _no_network() -> str:
    """Refuse every socket but Unix ones (seccomp(2)); why that is not possible here, or empty."""
    known = _MACHINES.get(platform.machine())
    if known is None:
        return f"not known how on {platform.machine()}"
    code = ctypes.create_string_buffer(_filter(known[0], known[2]))
    program = struct.pack("HxxxxxxQ", len(code.raw) // 8, ctypes.addressof(code))
    if _libc.prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(program), 0, 0):
        return os.strerror(ctypes.get_errno())
    return ""


def _filter(call_socket: int, machine: int) -> bytes:
    """A filter in classic BPF (linux/filter.h, linux/seccomp.h) over ``struct seccomp_data``.

    Other architectures' calls are refused as a whole, and io_uring, which makes sockets without socket(2).
    """
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    lines = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 6, machine),
        (load, 0, 0, 0),  # the call's number
        (at_least, 4, 0, _X32),
        (equal, 4, 0, _IO_URING_SETUP),
        (equal, 0, 4, call_socket),
        (load, 0, 0, 16),  # its first argument: the family
        (equal, 2, 0, socket.AF_UNIX),
        (end, 0, 0, refuse | errno.EPERM),
        (end, 0, 0, refuse | errno.ENOSYS),
        (end, 0, 0, allow),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
