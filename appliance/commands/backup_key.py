"""``flowork backup-key``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork backup-key /media/usb/flowork-backup.key", name="backup-key")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set/--no-set", "use", default=True, help="Encrypt backups by themselves to it from now on.")
def command(session: Session, file: Path, use: bool) -> None:
    """Make a key for backups: the private part goes into FILE, the public part into the setting `backup_keys`.

    Keep FILE away from this machine: it opens every backup, and without it none can be restored.
    """
    from appliance.store.seal import new_key

    settings = session.store.settings
    private, public = new_key()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(f"# Opens Flowork's backups. Public key: {public}\n{private}\n")
        out.flush()
        os.fsync(out.fileno())
    if use:
        settings.set({"backup_keys": (*settings.load().backup_keys, public)})
        session.audit("settings.set", "backup_keys", {"added": public})
        session.reload()
    session.done({"file": str(file), "public": public}, f"{public}\nthe private key is in {file}: keep it elsewhere")
