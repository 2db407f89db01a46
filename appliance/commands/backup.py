"""``flowork backup``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.store.archive import Manifest
    from appliance.store.seal import Lock

#: Characters: whoever has the file can try as often as they like.
MIN_PASSPHRASE = 12


@leaf(
    "flowork backup",
    "flowork backup /media/usb --encrypt-to age1…",
    "flowork backup /media/usb/flowork.sealed.tar --passphrase",
    "flowork backup --by-settings",
    name="backup",
)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--encrypt-to", multiple=True, metavar="KEY", help="A public key (age1…, ssh-…); may be repeated.")
@click.option("--passphrase", is_flag=True, help="Encrypt with a passphrase: asked for, or $FLOWORK_BACKUP_PASSPHRASE.")
@click.option("--by-settings", is_flag=True, help="Where, how and how many the settings `backup_…` say.")
def command(
    session: Session, file: Path | None, encrypt_to: tuple[str, ...], passphrase: bool, by_settings: bool
) -> None:
    """Write the whole engine into one file, while it runs, and read it back to prove it.

    FILE must not exist; a folder gets a file named by the time, and so does the data folder's backups/ if nothing is
    given. The engine's keys are in it: who can open the file has the engine.
    """
    from appliance.commands._input import BadInput
    from appliance.store.seal import Lock

    if by_settings:
        if file or encrypt_to or passphrase:
            raise BadInput("--by-settings takes everything from the settings")
        _by_settings(session)
        return
    if encrypt_to and passphrase:
        raise BadInput("either --encrypt-to or --passphrase, not both")
    lock = Lock(encrypt_to, _new_passphrase() if passphrase else "")
    _to_file(session, file, lock)


def _to_file(session: Session, file: Path | None, lock: Lock) -> None:
    from appliance.store.backup import make_backup

    target = _target(session.need_engine(), file, lock)
    with progress(session, "backing up") as tell:
        manifest = make_backup(session.folder, target, tell, lock=lock)
    size = target.stat().st_size
    _done(session, manifest, str(target), {"file": str(target), "bytes": size}, f", {out.size(size)}")
    if not lock:
        session.note("it holds the engine's keys, unencrypted: keep it where only you get at it")


def _by_settings(session: Session) -> None:
    from appliance.backups import make_by_settings

    settings = session.store.settings.load()
    with progress(session, "backing up") as tell:
        name, manifest, gone = make_by_settings(session.need_engine(), settings, tell)
    place = settings.backup_to or str(session.folder / "backups")
    _done(session, manifest, f"{place}: {name}", {"place": place, "name": name, "deleted": gone}, "")
    for old in gone:
        session.note(f"deleted, for there are newer ones: {old}")


def _done(session: Session, manifest: Manifest, where: str, answer: dict[str, object], more: str) -> None:
    session.audit("backup.make", where, {"files": len(manifest.files)})
    answer |= {"files": len(manifest.files), "left_out": manifest.left_out}
    session.done(answer, f"{where}: {counted(len(manifest.files), 'file')}{more}")
    for line in manifest.left_out:
        session.note(f"left out: {line}")


def _target(folder: Path, file: Path | None, lock: Lock) -> Path:
    """An absolute path of a file."""
    from appliance.backups import name_for

    name = name_for(time.time(), lock)
    if file is None:
        (folder / "backups").mkdir(mode=0o700, exist_ok=True)
        return folder / "backups" / name
    return (file / name if file.is_dir() else file).absolute()


def _new_passphrase() -> str:
    from appliance.commands._input import BadInput

    given = os.environ.get("FLOWORK_BACKUP_PASSPHRASE", "")
    chosen: str = given or click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    if len(chosen) < MIN_PASSPHRASE:
        raise BadInput(f"the passphrase needs {MIN_PASSPHRASE} characters at least: whoever has the file can try many")
    return chosen
