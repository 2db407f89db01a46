"""The files of a folder that a config means, and what is to be known of each to see that it has changed."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

#: File systems on which other machines change files that inotify here never hears of.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "davfs", "afs", "virtiofs", "hostfs"}


class Entry(Struct, frozen=True):
    """A regular file: bytes, nanoseconds, inode."""

    size: int
    mtime: int
    inode: int


class Selection:
    """Which files under a folder are meant. Names within it are bytes: a file's name need not be text."""

    def __init__(self, folder: str, patterns: tuple[str, ...], ignore: tuple[str, ...], recursive: bool) -> None:
        self.folder = os.fsencode(Path(folder).absolute())
        self.recursive = recursive
        self._wanted = _any_of(patterns)
        self._ignored = _any_of(ignore)

    def fits(self, name: bytes) -> bool:
        """A pattern with a slash is held against the path within the folder, others against the last part."""
        *above, _ = parts = name.split(b"/")
        if above and not self.recursive:
            return False
        if any(self._ignored(part, part) for part in above):
            return False
        return self._wanted(name, parts[-1]) and not self._ignored(name, parts[-1])

    def name_of(self, path: bytes) -> bytes | None:
        """The name within the folder, if it is meant."""
        prefix = self.folder.rstrip(b"/") + b"/"
        name = path.removeprefix(prefix)
        return name if path.startswith(prefix) and self.fits(name) else None

    def path_of(self, name: bytes) -> bytes:
        return self.folder.rstrip(b"/") + b"/" + name

    def look(self, name: bytes) -> Entry | None:
        try:
            return _entry(os.lstat(self.path_of(name)))
        except OSError:
            return None

    def walk(self) -> Iterator[tuple[bytes, Entry]]:
        """All files that are meant. Raises ``OSError`` only for the folder itself."""
        folders = [b""]
        while folders:
            within = folders.pop()
            try:
                scan = os.scandir(self.path_of(within) if within else self.folder)
            except OSError:
                if not within:
                    raise
                continue  # gone, or not ours to read
            with scan:
                for found in scan:
                    name = within + b"/" + found.name if within else found.name
                    try:
                        if found.is_dir(follow_symlinks=False):
                            if self.recursive and not self._ignored(found.name, found.name):
                                folders.append(name)
                        elif self.fits(name) and (entry := _entry(found.stat(follow_symlinks=False))) is not None:
                            yield name, entry
                    except OSError:
                        continue


class _any_of:  # noqa: N801 it reads as a function
    def __init__(self, patterns: tuple[str, ...]) -> None:
        whole = [pattern for pattern in patterns if "/" in pattern]
        last = [pattern for pattern in patterns if "/" not in pattern]
        self._whole, self._last = _compiled(whole), _compiled(last)

    def __call__(self, name: bytes, last: bytes) -> bool:
        return bool((self._last and self._last.match(last)) or (self._whole and self._whole.match(name)))


def _compiled(patterns: list[str]) -> re.Pattern[bytes] | None:
    if not patterns:
        return None
    return re.compile(b"|".join(fnmatch.translate(pattern.lstrip("/")).encode() for pattern in patterns))


def _entry(found: os.stat_result) -> Entry | None:
    return Entry(found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def on_network(folder: str, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a folder lies on a file system that others change (proc_pid_mountinfo(5))."""
    target = os.path.realpath(folder)
    longest, kind = "", ""
    for line in mounts.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        if (target + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(longest):
            longest, kind = point, after.split()[0]
    return kind in _NETWORK or kind.startswith("fuse.sshfs")
