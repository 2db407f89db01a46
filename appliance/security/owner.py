"""The owner's key on the box: shown, rotated, recovered, replaced by a wallet, or taken off the box.

``owner.key`` (the private key) and ``owner.json`` (the address) change one after the other, never together.
The rule that makes every moment of a power cut safe: a whole ``owner.key`` is the truth, and ``owner.json``
is made to follow it. Sign-in reads ``owner.json`` only, so the private key is not needed there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.security.files import KeysError, explained, keys_folder, locked, remove, write_atomic
from appliance.security.keyfile import OwnedKey, key_file, owned_key, read_key_file
from appliance.security.wallet import BadAddress, new_private_key, parse_address

OWNER_KEY = "owner.key"
OWNER_FILE = "owner.json"


class _OwnerFile(Struct, kw_only=True):
    address: str
    created: float


def show_owner(data: Path) -> OwnedKey:
    """The owner's key as kept on this box. Raises ``KeysError`` if it is not kept here or damaged."""
    path = keys_folder(data) / OWNER_KEY
    with explained(path.parent):
        try:
            return read_key_file(path.read_bytes())
        except FileNotFoundError:
            raise KeysError(
                "the owner's private key is not kept on this box; sign in with your copy or wallet, or make a "
                "new one with: flowork key recover"
            ) from None
        except KeysError as exc:
            raise KeysError(f"{path}: {exc.message}; make a new one with: flowork key recover") from None


def rotate_owner(data: Path, now: Callable[[], float] = time.time) -> OwnedKey:
    """Make a new owner key. The old address loses access at once, and with it its sessions."""
    folder = keys_folder(data)
    with _changing(folder):
        key = owned_key(new_private_key(), now())
        store(folder, key)
        return key


def recover_owner(data: Path, now: Callable[[], float] = time.time) -> tuple[OwnedKey, bool]:
    """The owner key if the box still has it, else a new one; and whether it was made anew."""
    folder = keys_folder(data)
    with _changing(folder):
        try:
            key, made = read_key_file((folder / OWNER_KEY).read_bytes()), False
        except (FileNotFoundError, KeysError):
            key, made = owned_key(new_private_key(), now()), True
        store(folder, key)
        return key, made


def replace_owner(data: Path, address: str, now: Callable[[], float] = time.time) -> str:
    """Make a wallet's address the owner and remove the private key from the box; the address, lower case.

    Raises ``BadAddress``.
    """
    folder = keys_folder(data)
    wanted = parse_address(address)
    with _changing(folder):
        _write_address(folder, wanted, now())
        remove(folder / OWNER_KEY)
        return wanted


def forget_owner_key(data: Path) -> None:
    """Take the private key off the box; whoever has a copy of it stays the owner."""
    folder = keys_folder(data)
    with _changing(folder):
        if reconcile(folder, []) is None:
            raise KeysError("this box has no owner yet; run: flowork key recover")
        remove(folder / OWNER_KEY)


class OwnerAddress:
    """The owner's address as it is now: one ``stat`` a call, so it may be asked with every request."""

    def __init__(self, data: Path) -> None:
        self._folder = keys_folder(data)
        self._seen: tuple[int, int, int] | None = None
        self._address: str | None = None

    def __call__(self) -> str | None:
        """The address in lower case, or None while there is no owner."""
        try:
            info = (self._folder / OWNER_FILE).stat()
        except FileNotFoundError:
            return None
        seen = (info.st_ino, info.st_mtime_ns, info.st_size)
        if seen != self._seen:
            self._address = read_address(self._folder)
            self._seen = seen
        return self._address


def read_address(folder: Path) -> str | None:
    """The owner's address from ``owner.json``; None if it is missing or damaged."""
    try:
        return parse_address(msgspec.json.decode((folder / OWNER_FILE).read_bytes(), type=_OwnerFile).address)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeError, BadAddress):
        return None


def store(folder: Path, key: OwnedKey) -> None:
    """Make ``key`` the owner's. Call with the folder locked."""
    write_atomic(folder / OWNER_KEY, key_file(key))
    _write_address(folder, key.address, key.created)


def reconcile(folder: Path, notes: list[str]) -> str | None:
    """Make ``owner.json`` follow ``owner.key``; the owner's address, if there is one.

    Adds to ``notes`` what was mended and what a person must mend. Call with the folder locked.
    """
    address = read_address(folder)
    try:
        key = read_key_file((folder / OWNER_KEY).read_bytes())
    except FileNotFoundError:
        if address is None:
            notes.append("the owner's key is lost; make a new one with: flowork key recover")
        return address
    except KeysError as exc:
        notes.append(f"{OWNER_KEY}: {exc.message}; make a new one with: flowork key recover")
        return address
    if address != key.address:
        _write_address(folder, key.address, key.created)
        notes.append(f"{OWNER_FILE} was made to follow {OWNER_KEY} again")
    return key.address


def _write_address(folder: Path, address: str, created: float) -> None:
    record = _OwnerFile(address=address, created=created)
    write_atomic(folder / OWNER_FILE, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    if not folder.is_dir():
        raise KeysError(f"{folder} is missing; run: flowork init")
    with explained(folder), locked(folder):
        yield
