"""What a backup is opened with: options that `restore` and `backup-check` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.store.seal import Keys

_key = click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file with the private key, where the backup is encrypted to one.",
)


def key_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--key FILE``."""
    return _key(function)


@contextmanager
def local_copy(session: Session, file: str) -> Iterator[Path]:
    """The backup as a file here; one that rclone reaches is fetched, and deleted afterwards."""
    from appliance.backups import RCLONE, Rclone
    from appliance.commands._input import BadInput

    if not file.startswith(RCLONE):
        path = Path(file)
        if not path.is_file():
            raise BadInput(f"{file}: no such file")
        yield path
        return
    where, _, name = file.removeprefix(RCLONE).rpartition("/")
    if not where:
        raise BadInput(f"{file}: write it as rclone:REMOTE:FOLDER/NAME")
    session.folder.parent.mkdir(parents=True, exist_ok=True)
    copy = session.folder.with_name(f".{session.folder.name}-{name}")
    try:
        session.note(f"fetching {name}")
        Rclone(where, session.folder).get(name, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def keys_for(path: Path, key: Path | None) -> Keys:
    """What opens it. A passphrase is asked for where one is needed, or taken from the environment."""
    from appliance.store.seal import Keys, is_sealed

    identities = (key.read_text(),) if key is not None else ()
    passphrase = os.environ.get("FLOWORK_BACKUP_PASSPHRASE", "")
    if is_sealed(path) == "passphrase" and not passphrase:
        passphrase = click.prompt("Passphrase", hide_input=True, err=True)
    return Keys(identities, passphrase)
