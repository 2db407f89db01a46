"""``flowork restore``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.commands._unlocking import key_option, keys_for, local_copy


@leaf(
    "flowork restore /media/usb/flowork.tar.gz --data /srv/flowork",
    "flowork restore rclone:cloud:flowork/flowork-20261121-033000.tar.gz.age --key backup.key",
    name="restore",
)
@click.argument("file")
@key_option
@click.option("--as-another", is_flag=True, help="Give it an identity of its own, so that it may run beside the first.")
def command(session: Session, file: str, key: Path | None, as_another: bool) -> None:
    """Put a backup into an empty data folder.

    Everything is checked before it counts. Runs that were under way go on at the next start. Do not run the original
    beside it: both are the same engine. With --as-another they are two; the new one begins in safe mode, for its flows
    would do everything a second time: look at them, then `flowork safe-mode off`.
    """
    from appliance.safemode import SafeMode
    from appliance.security.keys import init_keys
    from appliance.store.backup import restore_backup

    with local_copy(session, file) as path, progress(session, "restoring") as tell:
        keys = keys_for(path, key)
        manifest = restore_backup(path, session.folder, tell, keys=keys, as_another=as_another)
    if as_another:
        init_keys(session.folder)
        SafeMode(session.folder).enter("restored as another engine: its flows would do everything a second time")
    made = out.moment(manifest.created)
    answer = {"data": str(session.folder), "created": manifest.created, "files": len(manifest.files)}
    session.done(answer, f"the engine of {made} is back in {session.folder}: start it with `flowork up`")
