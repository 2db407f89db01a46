"""``flowork backup``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session


@leaf("flowork backup", "flowork backup /media/usb/flowork.tar.gz", name="backup")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def command(session: Session, file: Path | None) -> None:
    """Write the whole engine into one file, while it runs, and read it back to prove it.

    FILE must not exist; a folder gets a file named by the time, and so does the data folder's backups/ if nothing is
    given. The engine's keys are in it, unencrypted: who has the file has the engine.
    """
    from appliance.store.backup import make_backup

    target = _target(session.need_engine(), file)
    with progress(session, "backing up") as tell:
        manifest = make_backup(session.folder, target, tell)
    session.audit("backup.make", str(target), {"files": len(manifest.files)})
    size = target.stat().st_size
    answer = {"file": str(target), "bytes": size, "files": len(manifest.files), "left_out": manifest.left_out}
    session.done(answer, f"{target}: {len(manifest.files)} files, {out.size(size)}")
    for line in manifest.left_out:
        session.note(f"left out: {line}")
    session.note("it holds the engine's keys: keep it where only you get at it")


def _target(folder: Path, file: Path | None) -> Path:
    """An absolute path of a file."""
    name = time.strftime("flowork-%Y%m%d-%H%M%S.tar.gz")
    if file is None:
        (folder / "backups").mkdir(mode=0o700, exist_ok=True)
        return folder / "backups" / name
    return (file / name if file.is_dir() else file).absolute()
