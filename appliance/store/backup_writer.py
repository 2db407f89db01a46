"""Writing one backup: consistent copies of the databases, then the files beside them, into one archive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from appliance.store.archive import ArchiveWriter, Manifest, Progress, writing
from appliance.store.errors import StoreCorrupt, StoreError
from appliance.store.opening import DATABASE
from appliance.store.seal import Keys, Lock, sealed
from appliance.store.sqlite_file import backup_database, check_database, connect, sync_file

_FOLDERS = ("keys", "blobs", "files", "packages")
#: What flows have remembered (``ai/memory``), if they have.
MEMORY = "memory.db"
_NEVER_CHANGED = "blobs/"  # read in place; other files may be rewritten while they are read, so a copy is
_GONE = "deleted meanwhile"

#: Bring what was saved since the copy into it: runs in the shards may name those versions.
_CARRY = (
    (
        "UPDATE flow SET live = NULL, deleted = (SELECT deleted FROM live.flow AS l WHERE l.num = flow.num) "
        "WHERE deleted IS NULL AND num IN (SELECT num FROM live.flow WHERE deleted IS NOT NULL)"
    ),
    "INSERT INTO flow SELECT * FROM live.flow AS l WHERE l.num NOT IN (SELECT num FROM flow)",
    "INSERT INTO version SELECT * FROM live.version AS l WHERE l.id NOT IN (SELECT id FROM version)",
    "UPDATE flow SET newest = (SELECT max(number) FROM version WHERE version.flow = flow.num)",
)


class BackupWriter:
    """One backup being written; ``stage`` is a folder for copies beside the target."""

    #: Folders whose files are taken as they are.
    folders: tuple[str, ...] = _FOLDERS

    def __init__(self, data: Path, stage: Path, progress: Progress | None) -> None:
        self._data = data
        self._stage = stage
        self._progress = progress
        self._left_out: list[str] = []
        self._done = 0
        self._total = 0
        self._name = ""

    def write(self, part: Path, created: float, lock: Lock) -> tuple[Manifest, Keys]:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        plain = [path for folder in self.folders for path in self._files(self._data / folder)]
        self._total = self.size_of_store() + sum(_size(path) for path in [*self._data.glob(MEMORY), *plain])
        with sealed(part, lock) as (out, keys), writing(out, self._count) as archive:
            self.add_store(archive)
            for path in self._data.glob(MEMORY):
                self._shard(archive, path)
            for path in plain:
                self._plain(archive, path)
            manifest = archive.finish(created, self._left_out)
        sync_file(part)
        return manifest, keys

    def size_of_store(self) -> int:
        """Bytes of the flows and runs, about."""
        return sum(_size(path) for path in [self._data / DATABASE, *self._shards()])

    def add_store(self, archive: ArchiveWriter) -> None:
        """Add the flows and runs. Raises ``StoreError``."""
        # The database's copy comes first: the shards, copied later, then have every change of state that
        # it lacks (see Values.droppable).
        copy = self._stage / DATABASE
        backup_database(self._data / DATABASE, copy)
        for shard in self._shards():
            self._shard(archive, shard)
        self._database(archive, copy)

    def _shards(self) -> list[Path]:
        return sorted((self._data / "runs").glob("*.db"))

    def _files(self, folder: Path) -> Iterator[Path]:
        for root, folders, names in os.walk(folder, onerror=_fail) if folder.exists() else ():
            folders.sort()
            for name in sorted([*names, *(name for name in folders if (Path(root) / name).is_symlink())]):
                path = Path(root) / name
                reason = _unfit(path)
                if reason:
                    self._left_out.append(f"{self._relative(path)!r}: {reason}")
                else:
                    yield path

    def _shard(self, archive: ArchiveWriter, shard: Path) -> None:
        copy = self._stage / shard.name
        reason = _copy_shard(shard, copy)
        if reason:
            self._left_out.append(f"{self._relative(shard)!r}: {reason}")
        else:
            self.add(archive, self._relative(shard), copy)
        copy.unlink(missing_ok=True)

    def _database(self, archive: ArchiveWriter, copy: Path) -> None:
        with closing(connect(copy)) as connection:
            connection.execute("ATTACH DATABASE ? AS live", (str(self._data / DATABASE),))
            connection.execute("BEGIN IMMEDIATE")
            for statement in _CARRY:
                connection.execute(statement)
            connection.execute("COMMIT")
        damage = check_database(copy)
        if damage:
            raise StoreCorrupt(f"{DATABASE} is damaged ({damage}); restart Flowork to restore its last good copy")
        self.add(archive, DATABASE, copy)

    def _plain(self, archive: ArchiveWriter, path: Path) -> None:
        name, source = self._relative(path), path
        try:
            if not name.startswith(_NEVER_CHANGED):
                source = self._stage / "file"
                shutil.copy2(path, source)
            self.add(archive, name, source)
        except FileNotFoundError:
            self._left_out.append(f"{name!r}: {_GONE}")

    def add(self, archive: ArchiveWriter, name: str, path: Path) -> None:
        """Add a file under its name in the archive."""
        self._name = name
        archive.add(name, path)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._data).as_posix()

    def _count(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total, self._name)


def _fail(error: OSError) -> None:
    raise error


def _copy_shard(shard: Path, copy: Path) -> str:
    """Copy a shard; why it cannot be taken along, or nothing."""
    try:
        backup_database(shard, copy)
        damage = check_database(copy)
    except StoreCorrupt as exc:
        damage = exc.message
    except StoreError:
        if shard.exists():
            raise
        return _GONE  # retention deletes shards
    return f"damaged: {damage}" if damage else ""


def _unfit(path: Path) -> str:
    if path.is_symlink():
        return "a link"
    if not path.is_file():
        return "not a plain file"
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
