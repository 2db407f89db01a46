"""``flowork key``: the owner's key, on the box itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.security.keyfile import OwnedKey

command = noun("key", "The owner's key: show it, replace it, get back in without it.")


@leaf("flowork key show", of=command)
def show(session: Session) -> None:
    """Show the owner's address and private key. Who has the key owns the box."""
    from appliance.security.owner import show_owner

    _tell(session, show_owner(session.need_engine()))


@leaf("flowork key rotate", "flowork key rotate --yes --json", of=command)
@given.yes_option
def rotate(session: Session, yes: bool) -> None:
    """Make a new owner key. The old one loses access at once, and its sessions end."""
    from appliance.security.owner import rotate_owner

    folder = session.need_engine()
    given.confirmed(yes, "Replace the owner's key? The old one will not sign in any more.")
    key = rotate_owner(folder)
    session.audit("owner.rotate", key.address)
    _tell(session, key)


@leaf("flowork key recover", of=command)
def recover(session: Session) -> None:
    """Show the owner's key, or make a new one if this box has lost it or never kept it."""
    from appliance.security.owner import recover_owner

    key, made = recover_owner(session.need_engine())
    if made:
        session.audit("owner.recover", key.address)
        session.note("a new owner key was made; the old one does not sign in any more")
    _tell(session, key)


@leaf("flowork key file owner-key.json", of=command)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def file(session: Session, path: Path) -> None:
    """Write the owner's key to a file that the panel can load. Keep it where only you can read it."""
    from appliance.security.keyfile import key_file
    from appliance.security.owner import show_owner

    key = show_owner(session.need_engine())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise given.BadInput(f"{path} exists already; choose another name") from None
    with os.fdopen(handle, "wb") as written:
        written.write(key_file(key))
    session.done({"file": str(path), "address": key.address}, f"written to {path}")


@leaf("flowork key wallet 0x52908400098527886E0F7030069857D2E4169EE7", of=command)
@click.argument("address")
@given.yes_option
def wallet(session: Session, address: str, yes: bool) -> None:
    """Make a wallet's address the owner, and take the private key off this box."""
    from appliance.security.owner import replace_owner
    from appliance.security.wallet import checksummed, parse_address

    folder = session.need_engine()
    wanted = checksummed(parse_address(address))
    given.confirmed(yes, f"Make {wanted} the owner? Without that wallet nobody signs in as owner.")
    replace_owner(folder, address)
    session.audit("owner.wallet", wanted)
    session.done({"address": wanted}, f"the owner is {wanted}")


@leaf("flowork key forget --yes", of=command)
@given.yes_option
def forget(session: Session, yes: bool) -> None:
    """Take the private key off this box. Your own copy of it goes on working."""
    from appliance.security.owner import forget_owner_key

    folder = session.need_engine()
    given.confirmed(yes, "Delete the owner's private key from this box? Keep a copy elsewhere first.")
    forget_owner_key(folder)
    session.audit("owner.forget")
    session.done({"forgotten": True}, "the private key is not on this box any more")


def _tell(session: Session, key: OwnedKey) -> None:
    from appliance.security.wallet import checksummed

    address, digits = checksummed(key.address), key.private_key.reveal()
    if session.as_json:
        out.emit({"address": address, "private_key": digits})
        return
    out.fields([("address", address), ("private key", digits)])
