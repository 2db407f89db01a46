"""``flowork restore``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session


@leaf("flowork restore /media/usb/flowork.tar.gz --data /srv/flowork", name="restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def command(session: Session, file: Path) -> None:
    """Put a backup into an empty data folder.

    Everything is checked before it counts. Runs that were under way go on at the next `flowork up`. Do not run the
    original beside it: both are the same engine.
    """
    from appliance.commands._input import BadInput
    from appliance.store.backup import restore_backup

    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    with progress(session, "restoring") as tell:
        manifest = restore_backup(file, session.folder, tell)
    made = out.moment(manifest.created)
    answer = {"data": str(session.folder), "created": manifest.created, "files": len(manifest.files)}
    session.done(answer, f"the engine of {made} is back in {session.folder}: start it with `flowork up`")
