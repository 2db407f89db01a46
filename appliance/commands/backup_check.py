"""``flowork backup-check``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.commands._unlocking import key_option, keys_for, local_copy
from appliance.wording import counted


@leaf(
    "flowork backup-check /media/usb/flowork-20261121-033000.tar.gz",
    "flowork backup-check rclone:cloud:flowork/flowork-20261121-033000.tar.gz.age --key backup.key",
    name="backup-check",
)
@click.argument("file")
@key_option
def command(session: Session, file: str, key: Path | None) -> None:
    """Open a backup and check everything in it as a restore would, changing nothing."""
    from appliance.store.backup import check_backup

    room = session.need_engine() / "backups"
    room.mkdir(mode=0o700, exist_ok=True)
    with local_copy(session, file) as path, progress(session, "checking") as tell:
        manifest = check_backup(path, room, keys_for(path, key), tell)
    answer = {"created": manifest.created, "files": len(manifest.files), "left_out": manifest.left_out}
    session.done(answer, f"whole: {counted(len(manifest.files), 'file')} of {out.moment(manifest.created)}")
