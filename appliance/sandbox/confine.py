"""What a child process may see and use: bubblewrap where it works, and resource limits everywhere.

Three views of the machine:

- ``script``: everything read-only, a private ``/tmp`` in memory, no data folder, no homes, and without
  network no network device and none of the sockets in ``/run`` either.
- ``command``: what the engine's user may do, but a private ``/tmp`` and no data folder (its keys!) except
  for the flows' own files.
- ``call``: everything; it runs our own code.

Each has process ids of its own, so that its end is the end of all that it started.
"""

from __future__ import annotations

import functools
import json
import math
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.contracts import Limits
from appliance.sandbox.languages import PATH, RUNNERS

#: Where a child finds its own temporary folder, and a script the runners.
TMP = "/tmp"  # noqa: S108  # a private mount
SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the same
INSIDE = "/dev/flowork"
#: Bytes of a script's private /tmp and of its shared memory, each; they lie in memory.
SCRATCH = 64 * 1024 * 1024
#: The largest file a script may write, bytes.
LARGEST_FILE = SCRATCH
#: Address space (MiB) beyond the memory bound: libraries and maps that nothing is written to.
_MAPPED_MB = 512
#: Processes and threads that a child may add to those that the machine has already.
_NEW_TASKS = 512

_BASE = ("--die-with-parent", "--new-session", "--unshare-pid", "--cap-drop", "ALL")


@dataclass(frozen=True)
class Bubblewrap:
    """How bubblewrap can be used here: the program and its options, or why it cannot."""

    program: str = ""
    #: Bounds of a tmpfs are known from version 0.7 on.
    sizes: bool = False
    why_not: str = ""

    def tmpfs(self, folder: str) -> list[str]:
        return [*(("--size", str(SCRATCH)) if self.sizes else ()), "--tmpfs", folder]


@functools.cache
def bubblewrap() -> Bubblewrap:
    """Tried once per process, with all that a script needs (about 10 ms)."""
    program = shutil.which("bwrap", path=PATH)
    if program is None:
        return Bubblewrap(why_not="bubblewrap is not installed (apt install bubblewrap)")
    reason = ""
    for sizes in (True, False):
        wrap = Bubblewrap(program, sizes)
        reason = _try(wrap)
        if not reason:
            return wrap
    return Bubblewrap(why_not=f"bubblewrap does not work here: {reason}")


def _try(wrap: Bubblewrap) -> str:
    """Why bubblewrap fails with these options; empty if it does not."""
    view = script_view(wrap, network=False, hidden=[])
    argv = [*limited({"core": 0}), wrap.program, *view, "--", "true"]
    try:
        ended = subprocess.run(argv, env=environment({}), capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return ended.stderr.decode(errors="replace").strip() or (f"exit code {ended.returncode}" * ended.returncode)


def script_view(wrap: Bubblewrap, network: bool, hidden: Sequence[Path]) -> list[str]:
    """Options of bubblewrap for a script. The runners lie in ``INSIDE``, wherever the engine is installed.

    Only ``/tmp`` and shared memory can be written, which are swept when an interpreter is used again.
    """
    options = [*_BASE, "--unshare-ipc", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    options += [*wrap.tmpfs(SHARED_MEMORY), *wrap.tmpfs(TMP), "--ro-bind", str(RUNNERS), INSIDE]
    if not network:
        options += ["--unshare-net", *_emptied("/run")]
    for folder in _visible(hidden):
        options += _emptied(str(folder))
    return [*options, "--remount-ro", "/dev", "--chdir", TMP]


def private_folders(interpreter: str) -> list[Path]:
    """People's homes, which no script needs to see, unless its interpreter lies there."""
    program = Path(interpreter).resolve()
    homes = [Path("/home"), Path("/root")]
    return [home for home in homes if home.is_dir() and not program.is_relative_to(home)]


def _emptied(folder: str) -> list[str]:
    return ["--tmpfs", folder, "--remount-ro", folder]


def command_view(network: bool, hidden: Sequence[Path], shown: Sequence[Path], scratch: Path, cwd: Path) -> list[str]:
    """Options of bubblewrap for a command. ``shown`` are folders inside hidden ones.

    The order counts: hiding comes after ``cwd``, which may lie above what is to be hidden.
    """
    options = [*_BASE, "--dev-bind", "/", "/", "--proc", "/proc", "--bind", str(scratch), TMP]
    if not network:
        options.append("--unshare-net")
    if cwd.is_relative_to(TMP) and cwd != Path(TMP):
        options += ["--bind", str(cwd), str(cwd)]
    for folder in _visible(hidden):
        options += ["--tmpfs", str(folder)]
    for folder in shown:
        options += ["--bind", str(folder), str(folder)]
    for folder in _visible(hidden):
        options += ["--remount-ro", str(folder)]
    return [*options, "--chdir", str(cwd)]


def _visible(folders: Sequence[Path]) -> list[Path]:
    """Those that a private /tmp does not hide already (where a mount point could not be swept away)."""
    return [folder for folder in folders if not folder.is_relative_to(TMP)]


def call_view() -> list[str]:
    """Options of bubblewrap for our own code."""
    return [*_BASE, "--dev-bind", "/", "/", "--proc", "/proc"]


def environment(extra: Mapping[str, str], home: str = TMP) -> dict[str, str]:
    """All the variables that a child gets."""
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home, **extra}


def limits_of(limits: Limits, base_mb: int = 0, *, space: bool = False, script: bool = False) -> dict[str, int]:
    """Resource limits (setrlimit(2)) by their names in lower case.

    ``data`` counts the private writable memory of one process, so an interpreter's ``base_mb`` comes on
    top. ``space`` bounds the address space too, which also counts memory that is shared with children.
    """
    bounds = {"core": 0, "nproc": _tasks() + _NEW_TASKS}
    if limits.cpu > 0:
        bounds["cpu"] = math.ceil(limits.cpu)
    if limits.memory_mb > 0:
        bounds["data"] = (limits.memory_mb + base_mb) << 20
        if space:
            bounds["as"] = (limits.memory_mb + base_mb + _MAPPED_MB) << 20
    if script:
        bounds |= {"fsize": LARGEST_FILE, "nofile": 256, "msgqueue": 0}
    return {name: _allowed(name, bound) for name, bound in bounds.items()}


def _allowed(name: str, bound: int) -> int:
    """Not above the engine's own limit, which only root could raise."""
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    return bound if hard == resource.RLIM_INFINITY else min(bound, hard)


def limited(bounds: Mapping[str, int]) -> list[str]:
    """The start of a command line that sets limits and offers the child to the kernel's OOM killer first."""
    options = [f"--{name}={bound}:{_allowed(name, bound + (name == 'cpu'))}" for name, bound in bounds.items()]
    return ["prlimit", *options, "--", "choom", "-n", "1000", "--"]


def guarded(bounds: Mapping[str, int], lifeline: int) -> list[str]:
    """The same where there is no bubblewrap: under the guard, which also ends what the child leaves behind."""
    return [sys.executable, "-I", "-S", "-B", str(RUNNERS / "guard.py"), str(lifeline), json.dumps(dict(bounds))]


def _tasks() -> int:
    """Processes and threads of the whole machine, from ``/proc/loadavg`` (proc(5): its fourth field).

    RLIMIT_NPROC counts all tasks of a user, the engine's and a desktop's too, so a fixed bound would
    stop good scripts on a busy laptop; this one still ends a fork bomb.
    """
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 4096
