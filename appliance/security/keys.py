"""The engine's identity and first start: what lies under ``keys/``, made once and mended after a crash.

==================  =====================================================================
``engine.key``      the engine's private key
``vault.key``       the vault's master keys
``owner.key``       the owner's private key, so that the box itself can show it again (may be absent)
``owner.json``      the owner's address: all that signing in needs
``engine.json``     the engine's id and address; written last, so it says that the first start was completed
``audit.head``      where the audit log ends
``agents/``         the paired edge agents, and the certificate that they know this engine by
``peers/``          the same for paired engines
==================  =====================================================================

Every file is written beside and renamed, so a power cut leaves whole files only. As long as ``engine.json``
is missing, whatever else is missing is made; once it is there, ``engine.key`` and ``vault.key`` are never
made anew behind anybody's back: what was sealed or signed with the old ones would be lost silently.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.security import owner
from appliance.security.files import (
    KeysError,
    explained,
    keys_folder,
    locked,
    remove,
    remove_leftovers,
    sync_folder,
    write_atomic,
)
from appliance.security.keyfile import OwnedKey, key_file, owned_key, read_key_file
from appliance.security.keyring import VAULT_KEY, decode_keyring, encode_keyring, new_keyring
from appliance.security.secret import Secret
from appliance.security.wallet import new_private_key

ENGINE_FILE = "engine.json"
ENGINE_KEY = "engine.key"
#: Folders with the keys by which peers and agents know this engine, and those by which it knows them.
_KNOWN_BY = ("peers", "agents")
_PRIVATE = (ENGINE_FILE, ENGINE_KEY, VAULT_KEY, owner.OWNER_FILE, owner.OWNER_KEY)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32
_ID_LENGTH = 16
_OTHERS = 0o077


class Engine(Struct, frozen=True, kw_only=True):
    """An engine's identity: a stable id made from its first key, its address, and its birth (Unix seconds)."""

    id: str
    address: str
    created: float


class InitResult(Struct, frozen=True, kw_only=True):
    """What :func:`init_keys` found or made.

    ``owner_private_key`` is there only when this call completed the first start: show it once.
    ``owner_address`` is None when the box has no owner (any more); then nothing may listen on the network.
    ``notes`` tells a person what was mended or needs a look.
    """

    engine: Engine
    owner_address: str | None
    owner_private_key: Secret | None = None
    notes: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """This call completed the first start."""
        return self.owner_private_key is not None


def init_keys(data: Path, now: Callable[[], float] = time.time) -> InitResult:
    """Make what is missing under ``<data>/keys``, mend what a crash left, and say what is there.

    May be called at every start and by several processes at once; a whole folder is only read.
    Raises ``KeysError`` if the folder cannot be used or a file that cannot be made again is lost or damaged.
    """
    folder = keys_folder(data)
    with explained(folder):
        if (found := _whole(folder)) is not None:
            return found
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder):
            return _complete(folder, now())


def new_identity(data: Path, now: Callable[[], float] = time.time) -> Engine:
    """Make another engine of this folder: a new key and id, known to no peer and no agent; all else stays.

    Nothing may run on the folder. After a crash in the middle the old identity is still there, or the next start makes
    the new one. Raises ``KeysError``.
    """
    folder = keys_folder(data)
    with explained(folder), locked(folder):
        for name in _KNOWN_BY:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (ENGINE_FILE, ENGINE_KEY):
            remove(folder / name)
    return init_keys(data, now).engine


def read_engine(data: Path) -> Engine:
    """The identity of an initialised engine. Raises ``KeysError``."""
    path = keys_folder(data) / ENGINE_FILE
    with explained(path.parent):
        if (engine := _read_engine(path)) is None:
            raise KeysError(f"{path} is missing or damaged; run: flowork init")
        return engine


def engine_key(data: Path) -> OwnedKey:
    """The engine's own key, with which it signs towards peers. Raises ``KeysError``."""
    path = keys_folder(data) / ENGINE_KEY
    with explained(path.parent):
        try:
            return read_key_file(path.read_bytes())
        except FileNotFoundError:
            raise KeysError(f"{path} is missing; run: flowork init") from None


def derived_secret(data: Path, purpose: str) -> bytes:
    """32 secret bytes that all processes of this engine agree on, different for each ``purpose``."""
    key = bytes.fromhex(engine_key(data).private_key.reveal()[2:])
    return hmac.digest(key, b"flowork derived secret\0" + purpose.encode(), "sha256")


def _whole(folder: Path) -> InitResult | None:
    """The result for a folder in which nothing is left to do, else None. Writes nothing, needs no lock."""
    engine = _read_engine(folder / ENGINE_FILE)
    if engine is None or any(_open_to_others(path) for path in _private_paths(folder)):
        return None
    key, address = _read_key(folder / ENGINE_KEY), owner.read_address(folder)
    if key is None or key.address != engine.address or not _has_keyring(folder):
        return None
    owners = _read_key(folder / owner.OWNER_KEY)
    if address is None or (owners is None and (folder / owner.OWNER_KEY).exists()):
        return None
    if owners is not None and owners.address != address:
        return None
    return InitResult(engine=engine, owner_address=address)


def _complete(folder: Path, now: float) -> InitResult:
    notes = [f"removed {name}, left by a crash" for name in remove_leftovers(folder)]
    first = not (folder / ENGINE_FILE).exists()
    key = _ensure_engine_key(folder, now, first, notes)
    _ensure_keyring(folder, now, first, notes)
    if first and _read_key(folder / owner.OWNER_KEY) is None and owner.read_address(folder) is None:
        _move_aside(folder / owner.OWNER_KEY, now, notes)
        owner.store(folder, owned_key(new_private_key(), now))
    address = owner.reconcile(folder, notes)
    engine = _ensure_engine_file(folder, key, now, notes)
    notes += [note for path in _private_paths(folder) if (note := _tighten(path))]
    made = _read_key(folder / owner.OWNER_KEY) if first else None
    return InitResult(
        engine=engine,
        owner_address=address,
        owner_private_key=made.private_key if made else None,
        notes=tuple(notes),
    )


def _ensure_engine_key(folder: Path, now: float, first: bool, notes: list[str]) -> OwnedKey:
    path = folder / ENGINE_KEY
    if (key := _read_key(path)) is not None:
        return key
    _refuse_loss(path, first, "the box gets a new identity that peers must accept again")
    _move_aside(path, now, notes)
    key = owned_key(new_private_key(), now)
    write_atomic(path, key_file(key, "engine"))
    return key


def _ensure_keyring(folder: Path, now: float, first: bool, notes: list[str]) -> None:
    if _has_keyring(folder):
        return
    path = folder / VAULT_KEY
    _refuse_loss(path, first, "all secrets must be entered again")
    _move_aside(path, now, notes)
    write_atomic(path, encode_keyring(new_keyring()))


def _ensure_engine_file(folder: Path, key: OwnedKey, now: float, notes: list[str]) -> Engine:
    path = folder / ENGINE_FILE
    if (engine := _read_engine(path)) is not None:
        if engine.address == key.address:
            return engine
        raise KeysError(f"{path} and {ENGINE_KEY} beside it belong to different engines; restore both from one backup")
    _move_aside(path, now, notes)
    engine = Engine(id=_id_of(key.address), address=key.address, created=key.created or now)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(engine)) + b"\n")
    return engine


def _refuse_loss(path: Path, first: bool, price: str) -> None:
    if first:
        return
    fault = "damaged" if path.exists() else "missing"
    raise KeysError(
        f"{path} is {fault}. Restore it from a backup of the keys folder. If there is none, remove "
        f"{path.with_name(ENGINE_FILE)} and start again: a new one is made, and {price}"
    )


def _move_aside(path: Path, now: float, notes: list[str]) -> None:
    if path.exists():
        aside = path.with_name(f"{path.name}.damaged-{int(now)}")
        path.rename(aside)
        sync_folder(path.parent)
        notes.append(f"{path.name} was damaged; it was moved to {aside.name} and made anew")


def _read_engine(path: Path) -> Engine | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Engine)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeError):
        return None


def _read_key(path: Path) -> OwnedKey | None:
    try:
        return read_key_file(path.read_bytes())
    except (FileNotFoundError, KeysError):
        return None


def _has_keyring(folder: Path) -> bool:
    try:
        decode_keyring((folder / VAULT_KEY).read_bytes())
    except (FileNotFoundError, KeysError):
        return False
    return True


def _id_of(address: str) -> str:
    """The id of an engine born with this address: 80 bits, so that a lost ``engine.json`` can be rebuilt."""
    number = int.from_bytes(hashlib.sha256(b"flowork engine id\0" + address.encode()).digest()[:10], "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_ID_LENGTH)))


def _private_paths(folder: Path) -> list[Path]:
    return [folder, *(path for name in _PRIVATE if (path := folder / name).exists())]


def _open_to_others(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & _OTHERS)


def _tighten(path: Path) -> str | None:
    """Take a key from everybody else's eyes; a note about it, or None where it was private already."""
    if not _open_to_others(path):
        return None
    try:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    except PermissionError:
        return f"{path.name} can be read by others and belongs to another user; run: chmod go-rwx {path}"
    if _open_to_others(path):  # FAT and some network disks ignore modes
        return f"{path.name} can be read by others: its disk keeps no permissions; put the keys on another one"
    return f"{path.name} could be read by others; its permissions were tightened"
