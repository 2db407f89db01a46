"""Back up a whole engine into one file while it runs, and restore it into an empty data folder.

Taken along are ``flowork.db``, the run shards and the memory as consistent copies, then ``keys/``, ``blobs/``,
``files/`` and ``packages/``. ``queue.db`` is not (the journal is the truth), nor are models (large, can be fetched
again).

WARNING: ``keys/`` is in the archive. Whoever can open it has the engine's identity and its secrets: encrypt it
(``seal.py``), or keep it where only the owner gets at it; it is written with mode 0600.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from appliance.store.archive import ArchiveWriter, Manifest, Progress, read_archive, writing
from appliance.store.errors import StoreBusy, StoreCorrupt, StoreError, explained
from appliance.store.good_copy import GOOD_COPY
from appliance.store.metadata import open_store
from appliance.store.migrations import pending
from appliance.store.opening import DATABASE, RESTORING
from appliance.store.places import database_url
from appliance.store.seal import Keys, Lock, check_lock, sealed
from appliance.store.sqlite_file import backup_database, check_database, connect, folder_lock, sync_file, sync_folder

_FOLDERS = ("keys", "blobs", "files", "packages")
#: What flows have remembered (``ai/memory``), if they have.
MEMORY = "memory.db"
_NEVER_CHANGED = "blobs/"  # read in place; other files may be rewritten while they are read, so a copy is
_COPY_PATIENCE = 30.0  # seconds; making a good copy takes far less than one
_GONE = "deleted meanwhile"
#: What makes an engine this engine (``security/keys.py``): its key, and how peers and agents know it.
_IDENTITY = ("keys/engine.json", "keys/engine.key", "keys/peers", "keys/agents")

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


def make_backup(
    data: Path,
    target: Path,
    progress: Progress | None = None,
    now: Callable[[], float] = time.time,
    lock: Lock | None = None,
) -> Manifest:
    """Write a backup of the engine in ``data`` to the new file ``target``, then read it back to prove it.

    With a ``lock`` it is encrypted, and nothing of it is written in the clear outside of the data folder.

    The engine may run meanwhile; what flows do after the call began may be missing. A damaged run shard, a
    link or a file that goes away is left out and named in ``Manifest.left_out``. Raises ``StoreError``; then
    there is no ``target``. See the module's warning about keys.
    """
    url = database_url()
    if not url and not (data / DATABASE).exists():
        raise StoreError(f"there is no engine in {data}: {DATABASE} is missing", retryable=False)
    if target.exists():
        raise StoreError(f"{target} exists already; choose another name", retryable=False)
    lock = lock or Lock()
    check_lock(lock)
    part = target.with_name(target.name + ".part")
    with explained(target), closing(open_store(data, now=now)), _only_backup(data):
        place = (data / GOOD_COPY).parent if lock else target.parent
        stage = Path(tempfile.mkdtemp(prefix=".flowork-backup-", dir=place))
        try:
            manifest, keys = _made_of(url, data, stage, progress).write(part, now(), lock)
            if read_archive(part, keys=keys) != manifest:
                raise StoreError(f"{part} cannot be read back as it was written; try another disk")
            part.rename(target)
            sync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
            shutil.rmtree(stage, ignore_errors=True)
    return manifest


@contextmanager
def _only_backup(data: Path) -> Iterator[None]:
    """Keep others from making a backup or renewing the good copy meanwhile."""
    folder = (data / GOOD_COPY).parent
    folder.mkdir(mode=0o700, exist_ok=True)
    with folder_lock(data) as alone, folder_lock(folder, _COPY_PATIENCE if alone else 0) as quiet:
        if not (alone and quiet):
            raise StoreBusy("another backup is being made; try again when it is done")
        yield


def _made_of(url: str, data: Path, stage: Path, progress: Progress | None) -> Backup:
    if not url:
        return Backup(data, stage, progress)
    from appliance.store.postgres.backup import ServerBackup

    return ServerBackup(url, data, stage, progress)


class Backup:
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


def restore_backup(
    archive: Path,
    data: Path,
    progress: Progress | None = None,
    *,
    keys: Keys | None = None,
    as_another: bool = False,
) -> Manifest:
    """Put a backup into the empty folder ``data``, verified; raises ``StoreError`` and then leaves it empty.

    Runs that were under way when the backup was made go on at the engine's next start. Do not run the original
    engine beside the restored one: both have the same identity, unless ``as_another`` leaves it out, so that the
    next start makes a new one (owner, secrets and tokens stay).
    """
    with explained(data):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        stage = data / RESTORING
        others = sorted(path.name for path in data.iterdir() if path != stage)
        if others:
            raise StoreError(
                f"{data} is not empty ({', '.join(others[:3])}): restore into an empty folder", retryable=False
            )
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700)
        try:
            manifest = _extract(archive, stage, progress, keys)
            for name in _IDENTITY if as_another else ():
                if (stage / name).is_dir():
                    shutil.rmtree(stage / name)
                else:
                    (stage / name).unlink(missing_ok=True)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        _move_in(stage, data)
    return manifest


def check_backup(archive: Path, room: Path, keys: Keys | None = None, progress: Progress | None = None) -> Manifest:
    """Open a backup and check everything in it as a restore would, in a folder within ``room`` that is gone after.

    Raises ``StoreError``.
    """
    with explained(room), tempfile.TemporaryDirectory(prefix=".flowork-check-", dir=room) as stage:
        return _extract(archive, Path(stage), progress, keys)


def _extract(archive: Path, stage: Path, progress: Progress | None, keys: Keys | None) -> Manifest:
    total, done = archive.stat().st_size, 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, max(done, total), "restore")

    manifest = read_archive(archive, stage, count, keys)
    database = stage / DATABASE
    for path in [database, *sorted((stage / "runs").glob("*.db")), *stage.glob(MEMORY)]:
        damage = check_database(path)
        if damage:
            raise StoreError(f"{path.name} in {archive} is damaged: {damage}", retryable=False)
    pending(database)  # refuses the database of a newer Flowork
    os.sync()  # one call for what may be many thousand files
    return manifest


def _move_in(stage: Path, data: Path) -> None:
    # The database last: until then the folder is visibly incomplete (RESTORING is there), and no start takes
    # it for an engine.
    for path in sorted(stage.iterdir(), key=lambda path: path.name == DATABASE):
        path.rename(data / path.name)
    sync_folder(data)
    stage.rmdir()
