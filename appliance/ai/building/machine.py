"""This machine as far as an engine is made for it: the CPU's instruction sets, memory, disk, a compiler."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from appliance.ai.host import memory

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
#: Of what x86 lists as flags, what a compiler makes use of by itself. The others change with kernels and hypervisors.
_X86 = re.compile(
    r"^(pni|sse\w*|ssse3|avx\w*|fma|fma4|f16c|bmi[12]|abm|popcnt|movbe|adx|v?aes|v?pclmulqdq|gfni|sha_ni|sha512|sm[34]"
    r"|amx_\w+|rdrand|rdseed|clflushopt|clwb|xsave\w*|prefetchw|3dnowprefetch)$"
)
#: What the compiler of Debian, Ubuntu and Raspberry Pi OS comes in.
COMPILER_PACKAGE = "g++"
_PROGRAM = "#include <vector>\nint main() { return static_cast<int>(std::vector<int>().size()); }\n"


def cpu_features(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """The instruction sets that every core has, sorted (proc(5)); nothing where that cannot be read."""
    common: set[str] | None = None
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            words = set(value.split())
            common = words if common is None else common & words
    found = common or set()
    return tuple(sorted(found if platform.machine() not in ("x86_64", "i686") else filter(_X86.match, found)))


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """What the CPU calls itself, or the board: enough to know a measurement's machine again."""
    found = re.search(r"^(?:model name|Model)\s*: (.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
    return f"{found[1].strip()[:80] if found else platform.machine()}, {cores()} cores"


def total_memory(meminfo: Path = MEMINFO) -> int:
    """Bytes of memory that the machine has."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def free_memory(meminfo: Path = MEMINFO) -> int:
    """Bytes of memory that can still be had, free swap included: a compiler may well be swapped out."""
    swap = re.search(r"^SwapFree:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return memory.available() + (int(swap[1]) << 10 if swap else 0)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_disk(folder: Path) -> int:
    """Bytes that can still be written to the disk of a folder, or of the one that it will be made in."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def compiler_fault(path: str | None = None) -> str:
    """What keeps this machine from compiling C++, tried out; empty: nothing. ``path`` instead of ``$PATH``."""
    for name in ("cc", "c++"):
        if shutil.which(name, path=path) is None:
            return f"there is no C++ compiler here: sudo apt install {COMPILER_PACKAGE}"
    with tempfile.TemporaryDirectory(prefix="flowork-cc-") as folder:
        source = Path(folder, "try.cpp")
        source.write_text(_PROGRAM)
        environ = {**os.environ, **({} if path is None else {"PATH": path})}
        done = subprocess.run(
            [shutil.which("c++", path=path) or "c++", "-o", str(Path(folder, "try")), str(source)],
            capture_output=True,
            text=True,
            check=False,
            env=environ,
            timeout=120,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return f"the C++ compiler does not work ({last[:200]}): sudo apt install --reinstall {COMPILER_PACKAGE}"
    return ""
