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

from appliance.store.archive import Manifest, Progress, read_archive
from appliance.store.backup_writer import MEMORY, BackupWriter
from appliance.store.errors import StoreBusy, StoreError, explained
from appliance.store.good_copy import GOOD_COPY
from appliance.store.metadata import open_store
from appliance.store.migrations import pending
from appliance.store.opening import DATABASE, RESTORING
from appliance.store.places import database_url
from appliance.store.seal import Keys, Lock, check_lock
from appliance.store.sqlite_file import check_database, folder_lock, sync_folder

_COPY_PATIENCE = 30.0  # seconds; making a good copy takes far less than one
#: What makes an engine this engine (``security/keys.py``): its key, and how peers and agents know it.
_IDENTITY = ("keys/engine.json", "keys/engine.key", "keys/peers", "keys/agents")


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


def _made_of(url: str, data: Path, stage: Path, progress: Progress | None) -> BackupWriter:
    if not url:
        return BackupWriter(data, stage, progress)
    from appliance.store.postgres.backup import ServerBackupWriter

    return ServerBackupWriter(url, data, stage, progress)


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
