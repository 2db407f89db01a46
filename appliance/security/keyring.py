"""The vault's master keys: ``keys/vault.key``, a small ring, because a rotation needs old and new at once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.security.files import KeysError, explained, keys_folder, locked, write_atomic
from appliance.security.secret import Secret

VAULT_KEY = "vault.key"
_BYTES = 32
_VERSION = 1


class _RingFile(Struct, kw_only=True):
    flowork_vault: int
    current: str
    keys: dict[str, str]


class Keyring(Struct, frozen=True):
    """Master keys by id (8 hex digits that tell nothing of the key), and the id that seals."""

    current: str
    keys: dict[str, Secret]

    def raw(self, key_id: str) -> bytes:
        """The 32 bytes of a key. Raises ``KeyError``."""
        return bytes.fromhex(self.keys[key_id].reveal())


def new_keyring() -> Keyring:
    """A ring with one random key."""
    key_id, key = _new_key()
    return Keyring(key_id, {key_id: key})


def encode_keyring(ring: Keyring) -> bytes:
    """The file's content."""
    keys = {key_id: key.reveal() for key_id, key in ring.keys.items()}
    record = _RingFile(flowork_vault=_VERSION, current=ring.current, keys=keys)
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def decode_keyring(content: bytes) -> Keyring:
    """A ring from its file. Raises ``KeysError`` unless it is whole."""
    try:
        record = msgspec.json.decode(content, type=_RingFile)
        keys = {key_id: bytes.fromhex(key) for key_id, key in record.keys.items()}
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise KeysError("vault.key is not a whole file of vault keys") from None
    if record.flowork_vault != _VERSION:
        raise KeysError(f"vault.key has version {record.flowork_vault}; this Flowork reads version {_VERSION}")
    if record.current not in keys or any(key_id != _id_of(key) for key_id, key in keys.items()):
        raise KeysError("vault.key is damaged: a key does not match its id")
    return Keyring(record.current, {key_id: Secret(key.hex()) for key_id, key in keys.items()})


def read_keyring(data: Path) -> Keyring:
    """The ring of the engine whose folder is ``data``. Raises ``KeysError`` naming what to do."""
    path = keys_folder(data) / VAULT_KEY
    with explained(path.parent):
        try:
            return decode_keyring(path.read_bytes())
        except FileNotFoundError:
            raise KeysError(f"{path} is missing; restore it from a backup, or run: flowork init") from None


def add_key(data: Path) -> Keyring:
    """Put a new key on the ring and seal with it from now on; the old ones still open what they sealed."""
    folder = keys_folder(data)
    with explained(folder), locked(folder):
        ring = read_keyring(data)
        key_id, key = _new_key()
        return _write(data, Keyring(key_id, {**ring.keys, key_id: key}))


def drop_keys(data: Path, in_use: Callable[[], set[str]]) -> Keyring:
    """Forget the keys that seal nothing any more: all but the current one and those ``in_use``.

    ``in_use`` is asked with the folder locked, so that nothing is sealed with a key between question and end.
    """
    folder = keys_folder(data)
    with explained(folder), locked(folder):
        ring = read_keyring(data)
        needed = in_use() | {ring.current}
        kept = {key_id: key for key_id, key in ring.keys.items() if key_id in needed}
        return ring if kept == ring.keys else _write(data, Keyring(ring.current, kept))


def _write(data: Path, ring: Keyring) -> Keyring:
    write_atomic(keys_folder(data) / VAULT_KEY, encode_keyring(ring))
    return ring


def _new_key() -> tuple[str, Secret]:
    key = secrets.token_bytes(_BYTES)
    return _id_of(key), Secret(key.hex())


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"flowork vault key id\0" + key).hexdigest()[:8]
