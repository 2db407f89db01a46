"""How much memory this machine has for models, and how much is left. All figures are bytes."""

from __future__ import annotations

import re
from pathlib import Path

#: Of the machine's memory: the rest is for the engine, for what else runs, and for files.
SHARE = 0.6
_LEAST = 256 << 20


def default_bound(root: Path = Path("/")) -> int:
    """What models may use unless a setting says otherwise: a share of the machine's memory, or of this process's part
    of it (cgroup v2, ``memory.high`` and ``memory.max``).
    """
    limits = [limit for folder in _groups(root) for limit in (_number(folder / "memory.high"), _limit(folder)) if limit]
    machine = int(_meminfo(root, "MemTotal") * SHARE)
    return max(_LEAST, min([machine, *(int(limit * 0.9) for limit in limits)]))


def available(root: Path = Path("/")) -> int:
    """What could be taken now without pushing anybody into swap: as the kernel reckons it (proc(5), MemAvailable), and
    within the limits of this process's groups.
    """
    left = [_meminfo(root, "MemAvailable")]
    for folder in _groups(root):
        if limit := _limit(folder):
            used = (_number(folder / "memory.current") or 0) - _file_cache(folder)
            left.append(max(0, limit - used))
    return min(left)


def resident(root: Path = Path("/")) -> int:
    """What this process has in memory now, mapped files included (proc(5), VmRSS)."""
    return _kilobytes((root / "proc/self/status").read_text(), "VmRSS")


def _meminfo(root: Path, name: str) -> int:
    return _kilobytes((root / "proc/meminfo").read_text(), name)


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _groups(root: Path) -> list[Path]:
    """The folders of this process's control group and those above it; none without cgroup v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    name = next((line[3:] for line in lines if line.startswith("0::")), None)
    if name is None:
        return []
    top = root / "sys/fs/cgroup"
    folder = top / name.strip("/")
    return [one for one in (folder, *folder.parents) if one.is_relative_to(top)]


def _limit(folder: Path) -> int | None:
    return _number(folder / "memory.max")


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _file_cache(folder: Path) -> int:
    """Pages of files that were not used lately, which go before anything else does."""
    try:
        found = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
