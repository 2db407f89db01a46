"""Secrets at rest: sealed with AES-256-GCM, opened only for a flow that uses them, never shown again.

The only importer of cryptography, which is loaded on first use (19 ms, 7 MB). A sealed value is
``b"FV1"``, the master key's id (4 bytes), a random nonce (12 bytes), then ciphertext and tag. The workspace and
the name are authenticated with it, so a sealed value moved to another name does not open. Random nonces are safe
for 2**32 seals with one master key (NIST SP 800-38D, 8.3); :meth:`Secrets.rotate` makes a new one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from appliance.contracts import ConfigError, FlowError
from appliance.security.files import explained, keys_folder, locked
from appliance.security.keyring import Keyring, add_key, drop_keys, read_keyring
from appliance.security.scrub import MIN_LENGTH
from appliance.security.secret import Secret

_MAGIC = b"FV1"
_ID, _NONCE, _TAG = 4, 12, 16
_HEAD = len(_MAGIC) + _ID
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
MAX_LENGTH = 65_536


class VaultError(FlowError):
    """A sealed secret cannot be opened."""

    id = "vault"
    retryable = False


class Vault:
    """Seals and opens with the master keys of the engine whose data folder is ``data``."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._ring: Keyring | None = None

    def seal(self, workspace: str, name: str, value: Secret) -> bytes:
        """The value, sealed for this workspace and name with the current master key. Raises ``KeysError``."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        ring = self._ring = read_keyring(self._data)  # another process may have rotated
        head, nonce = _MAGIC + bytes.fromhex(ring.current), secrets.token_bytes(_NONCE)
        cipher = AESGCM(ring.raw(ring.current))
        return head + nonce + cipher.encrypt(nonce, value.reveal().encode(), _context(head, workspace, name))

    def open(self, workspace: str, name: str, sealed: bytes) -> Secret:
        """The value of what :meth:`seal` made. Raises ``VaultError`` saying whether key or value is at fault."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = self._key(key_id_of(sealed), name)
        head, nonce = sealed[:_HEAD], sealed[_HEAD : _HEAD + _NONCE]
        try:
            value = AESGCM(key).decrypt(nonce, sealed[_HEAD + _NONCE :], _context(head, workspace, name))
        except InvalidTag:
            raise VaultError(
                f"the secret {name!r} of workspace {workspace!r} is damaged, or was sealed under another name; "
                "enter it again"
            ) from None
        return Secret(value.decode())

    def _key(self, key_id: str, name: str) -> bytes:
        if self._ring is None or key_id not in self._ring.keys:
            self._ring = read_keyring(self._data)
        if key_id not in self._ring.keys:
            raise VaultError(
                f"the secret {name!r} was sealed with the key {key_id}, which is not in keys/vault.key (it has "
                f"{', '.join(sorted(self._ring.keys))}): the keys folder and the database belong to different "
                "engines or backups; restore both from one backup, or enter the secret again"
            )
        return self._ring.raw(key_id)


class SealedRow(Protocol):
    """One row."""

    @property
    def workspace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def sealed(self) -> bytes: ...


class SecretRepo(Protocol):
    """Where sealed secrets are kept. What changes something has committed when it returns."""

    def put(self, workspace: str, name: str, sealed: bytes) -> None: ...

    def get(self, workspace: str, name: str) -> SealedRow | None: ...

    def names(self, workspace: str) -> Iterable[str]: ...

    def delete(self, workspace: str, name: str) -> bool: ...

    def all(self) -> Iterable[SealedRow]: ...

    def replace(self, workspace: str, name: str, old: bytes, new: bytes) -> bool:
        """Put ``new`` in the place of ``old``; False (and nothing done) if it is not ``old`` any more."""


class OpenedSecrets(Struct, frozen=True):
    """Everything that could be opened, by workspace and name, and what could not, with the reason."""

    values: dict[str, dict[str, Secret]]
    problems: tuple[str, ...] = ()


class Secrets:
    """The secrets of an engine. Nothing here hands a value to a person: ``use`` and ``open_all`` are the kernel's.

    ``put`` and ``rotate`` lock the keys folder around a write of the repo: do not call them inside a database
    transaction, or two processes could wait for each other.
    """

    def __init__(self, repo: SecretRepo, data: Path) -> None:
        self._repo = repo
        self._data = data
        self._vault = Vault(data)

    def put(self, workspace: str, name: str, value: Secret) -> None:
        """Keep a secret under a name, in the place of what was there. Raises ``ConfigError``, ``KeysError``."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"name: {name[:70]!r} must be letters, digits and _ (at most 64, not a digit first), as in "
                "{{ secrets.smtp_password }}"
            )
        if len(value.reveal().strip()) < MIN_LENGTH or len(value.reveal()) > MAX_LENGTH:
            raise ConfigError(
                f"value: must have {MIN_LENGTH} to {MAX_LENGTH} characters; a shorter one cannot be kept out of logs"
            )
        try:
            value.reveal().encode()
        except UnicodeEncodeError:
            raise ConfigError("value: is not Unicode text (it holds half of a surrogate pair)") from None
        with self._sealing():
            self._repo.put(workspace, name, self._vault.seal(workspace, name, value))

    def use(self, workspace: str, name: str) -> Secret:
        """The value, for a flow that runs. Raises ``ConfigError`` if there is none, ``VaultError``."""
        row = self._repo.get(workspace, name)
        if row is None:
            raise ConfigError(f"there is no secret {name!r} in workspace {workspace!r}; add it under Secrets")
        return self._vault.open(workspace, name, row.sealed)

    def open_all(self) -> OpenedSecrets:
        """All values, for the engine's templates and its scrubber; one that is damaged stops no other."""
        values: dict[str, dict[str, Secret]] = {}
        problems = []
        for row in self._repo.all():
            try:
                value = self._vault.open(row.workspace, row.name, row.sealed)
            except VaultError as exc:
                problems.append(exc.message)
            else:
                values.setdefault(row.workspace, {})[row.name] = value
        return OpenedSecrets(values, tuple(problems))

    def names(self, workspace: str) -> list[str]:
        """What there is; all that a person can read of it."""
        return sorted(self._repo.names(workspace))

    def delete(self, workspace: str, name: str) -> bool:
        """Forget a secret; False if there was none."""
        return self._repo.delete(workspace, name)

    def rotate(self) -> tuple[int, tuple[str, ...]]:
        """Seal everything again with a new master key, then forget the old ones.

        Returns how many were sealed again and what could not be opened (its key is kept). A crash at any
        moment loses nothing: old and new keys are on the ring until nothing needs the old ones, and rotating
        again finishes the work. Raises ``KeysError``.
        """
        add_key(self._data)
        done, problems = 0, []
        for row in list(self._repo.all()):
            try:
                value = self._vault.open(row.workspace, row.name, row.sealed)
            except VaultError as exc:
                problems.append(exc.message)
                continue
            done += self._seal_again(row, value)
        drop_keys(self._data, self._keys_in_use)
        return done, tuple(problems)

    def _seal_again(self, row: SealedRow, value: Secret) -> bool:
        """False if somebody has set the secret in the meantime, and so with the new key."""
        with self._sealing():
            fresh = self._vault.seal(row.workspace, row.name, value)
            return self._repo.replace(row.workspace, row.name, row.sealed, fresh)

    @contextmanager
    def _sealing(self) -> Iterator[None]:
        """Between sealing and committing the row, no rotation (in any process) may drop the key."""
        folder = keys_folder(self._data)
        with explained(folder), locked(folder):
            yield

    def _keys_in_use(self) -> set[str]:
        return {key_id for row in self._repo.all() if (key_id := _key_id(row.sealed))}


def key_id_of(sealed: bytes) -> str:
    """The id of the master key that sealed this. Raises ``VaultError`` if it is nothing that was ever sealed."""
    key_id = _key_id(sealed)
    if key_id is None:
        raise VaultError("this is not a sealed secret, or it is cut short; restore it or enter it again")
    return key_id


def _key_id(sealed: bytes) -> str | None:
    if len(sealed) < _HEAD + _NONCE + _TAG or not sealed.startswith(_MAGIC):
        return None
    return sealed[len(_MAGIC) : _HEAD].hex()


def _context(head: bytes, workspace: str, name: str) -> bytes:
    """What is authenticated beside the value; lengths first, so that no two pairs look alike."""
    parts = (workspace.encode(), name.encode())
    return head + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
