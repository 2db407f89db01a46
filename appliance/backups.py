"""Where backups go and how many are kept: a folder, or whatever rclone reaches (S3, WebDAV, SSH and others).

A backup is made and proved on this machine first. What was uploaded is compared with it byte by byte; only then older
ones are deleted. Why rclone: docs/decisions/backup-places.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from appliance.store.archive import Manifest, Progress
from appliance.store.backup import make_backup
from appliance.store.backup_log import State, read_state, write_state
from appliance.store.errors import NotFound, StoreError, explained
from appliance.store.seal import Lock
from appliance.store.settings import Settings
from appliance.store.sqlite_file import sync_folder

RCLONE = "rclone:"
#: What our backups are called; nothing else is ever listed or deleted.
NAME = r"^flowork-\d{8}-\d{6}\.(tar\.gz|tar\.gz\.age|sealed\.tar)$"
_NAME = re.compile(NAME)
#: rclone's own settings for this engine; without them those of the user count.
_CONFIG = "rclone.conf"
#: Seconds without any progress after which an upload is given up, by rclone itself.
_STALLED = "5m"


class PlaceError(StoreError):
    """The place where backups are kept cannot be used now."""

    id = "backup-place"


class Kept(Struct, frozen=True):
    """A backup in a place: bytes, and when it was made (Unix seconds)."""

    name: str
    size: int
    made: float


class Place(Protocol):
    """Where backups are kept. Everything raises ``StoreError``."""

    def ready(self) -> None:
        """Raises if nothing can be put there now."""
        ...

    def list(self) -> list[Kept]:
        """Our backups, newest first."""
        ...

    def put(self, file: Path) -> None:
        """Move a finished backup there."""
        ...

    def get(self, name: str, target: Path) -> None:
        """Copy one of them into a file."""
        ...

    def delete(self, name: str) -> None:
        """Delete one of them."""
        ...


def place_of(text: str, data: Path) -> Place:
    """The place that a setting names."""
    if text.startswith(RCLONE):
        return Rclone(text.removeprefix(RCLONE), data)
    return Folder(Path(text).expanduser(), own=False) if text else Folder(data / "backups", own=True)


class Folder:
    """A folder. One that is not ours must be there: a stick that is not plugged in is no reason to fill the card."""

    def __init__(self, path: Path, *, own: bool) -> None:
        self._path = path
        self._own = own

    def ready(self) -> None:
        if self._own:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._path.is_dir():
            raise PlaceError(f"there is no folder {self._path}: is the disk plugged in and mounted?")
        if not os.access(self._path, os.W_OK):
            raise PlaceError(f"{self._path} cannot be written to by the user of the engine")

    def list(self) -> list[Kept]:
        with explained(self._path):
            found = [path for path in self._path.iterdir() if _NAME.match(path.name)] if self._path.is_dir() else []
            return _newest_first(Kept(path.name, path.stat().st_size, path.stat().st_mtime) for path in found)

    def put(self, file: Path) -> None:
        with explained(self._path):
            if file.parent == self._path:
                return
            part = self._path / f".{file.name}.part"
            try:
                shutil.copyfile(file, part)
                with part.open("rb") as copied:
                    os.fsync(copied.fileno())
                _compare(file, part)
                part.rename(self._path / file.name)
            finally:
                part.unlink(missing_ok=True)
            sync_folder(self._path)
            file.unlink()

    def path_of(self, name: str) -> Path:
        """One of them. Raises ``NotFound``."""
        if not (self._path / name).is_file():
            raise NotFound(f"there is no {name} in {self._path}")
        return self._path / name

    def get(self, name: str, target: Path) -> None:
        with explained(self._path):
            shutil.copyfile(self._path / name, target)

    def delete(self, name: str) -> None:
        with explained(self._path):
            (self._path / name).unlink(missing_ok=True)


@contextmanager
def local_copy(place: Place, name: str, room: Path) -> Iterator[Path]:
    """One of a place's backups as a file on this machine; fetched into the folder ``room`` if it lies elsewhere."""
    if isinstance(place, Folder):
        yield place.path_of(name)
        return
    copy = room / f".fetched-{name}"
    try:
        place.get(name, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


class Rclone:
    """``REMOTE:FOLDER`` of rclone, which has to be installed and to know the remote."""

    def __init__(self, where: str, data: Path) -> None:
        self._where = where.rstrip("/")
        self._config = data / _CONFIG

    def ready(self) -> None:
        self._call("mkdir", self._where)

    def list(self) -> list[Kept]:
        answer = json.loads(self._call("lsjson", "--files-only", self._where) or "[]")
        found = [entry for entry in answer if _NAME.match(entry["Name"])]
        return _newest_first(Kept(entry["Name"], entry["Size"], _made(entry["Name"])) for entry in found)

    def put(self, file: Path) -> None:
        self._call("copyto", str(file), f"{self._where}/{file.name}")
        self._call("check", "--download", "--one-way", "--include", f"/{file.name}", str(file.parent), self._where)
        file.unlink()

    def get(self, name: str, target: Path) -> None:
        self._call("copyto", f"{self._where}/{name}", str(target))

    def delete(self, name: str) -> None:
        self._call("deletefile", f"{self._where}/{name}")

    def _call(self, *arguments: str) -> str:
        program = shutil.which("rclone")
        if program is None:
            raise PlaceError("rclone is not installed: apt install rclone", retryable=False)
        config = ["--config", str(self._config)] if self._config.exists() else []
        options = ["--retries", "3", "--low-level-retries", "5", "--timeout", _STALLED, "--contimeout", "30s"]
        done = subprocess.run(
            [program, *config, *options, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise PlaceError(f"rclone {arguments[0]} {self._where}: {_said(lines)}")
        return done.stdout


def make_by_settings(
    data: Path, settings: Settings, progress: Progress | None = None, now: Callable[[], float] = time.time
) -> tuple[str, Manifest, list[str]]:
    """Make a backup where the settings say, and delete those beyond the number to keep.

    Returns its name, what is in it, and which were deleted. Raises ``StoreError``; then nothing was deleted.
    """
    remote = settings.backup_to.startswith(RCLONE)
    if remote and not settings.backup_keys:
        raise StoreError(
            "a backup that leaves this machine must be encrypted: set backup_keys (`flowork backup-key` makes a key)",
            retryable=False,
        )
    state = read_state(data)
    state.tried = now()
    try:
        place = place_of(settings.backup_to, data)
        place.ready()
        name = name_for(now(), Lock(settings.backup_keys))
        local = data / "backups"
        local.mkdir(mode=0o700, exist_ok=True)
        for left in local.glob("*.part"):
            left.unlink()  # of one that was cut off
        manifest = make_backup(data, local / name, progress, now, Lock(settings.backup_keys))
        try:
            place.put(local / name)
        except BaseException:
            (local / name).unlink(missing_ok=True)
            raise
        gone = [kept.name for kept in place.list()[settings.backup_keep :]]
        for old in gone:
            place.delete(old)
    except StoreError as exc:
        state.error = exc.message
        write_state(data, state)
        raise
    write_state(data, State(tried=state.tried, done=now(), name=name))
    return name, manifest, gone


def name_for(now: float, lock: Lock) -> str:
    """The name of a backup; its ending says how it opens."""
    ending = "sealed.tar" if lock.passphrase else "tar.gz.age" if lock.recipients else "tar.gz"
    return f"flowork-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}.{ending}"


def _newest_first(found: Iterable[Kept]) -> list[Kept]:
    return sorted(found, key=lambda kept: kept.name, reverse=True)


def _made(name: str) -> float:
    return time.mktime(time.strptime(name[8:23], "%Y%m%d-%H%M%S"))


def _compare(one: Path, other: Path) -> None:
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(1 << 20):
            if right.read(1 << 20) != block:
                raise PlaceError(f"{other} cannot be read back as it was written; try another disk")


def _said(lines: list[str]) -> str:
    """rclone's last line without its time and level."""
    return re.sub(r"^\S+ \S+ \w+\s*: ", "", lines[-1]) if lines else "it failed without a word"
