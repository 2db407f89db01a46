"""Private keys as text: the digits that are shown once, and the file that the panel and the CLI load."""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from appliance.security.files import KeysError
from appliance.security.secret import Secret
from appliance.security.wallet import ORDER, address_of, checksummed

#: How a private key is written: ``0x`` and 64 hex digits. ``parse_key`` also reads it without the ``0x``.
KEY_FORMAT = "0x + 64 hex digits"
_DIGITS = re.compile(r"(?:0x)?([0-9a-f]{64})", re.IGNORECASE)
_VERSION = 1
_LONGEST = 4096


class _KeyFile(Struct, kw_only=True):
    flowork_key: int
    kind: str
    address: str
    private_key: str
    created: float = 0.0


class OwnedKey(Struct, frozen=True, kw_only=True):
    """A private key with its address; ``created`` in Unix seconds, 0 where the source does not tell."""

    address: str
    private_key: Secret
    created: float = 0.0


def owned_key(private_key: Secret, created: float = 0.0) -> OwnedKey:
    """The key together with the address that belongs to it."""
    return OwnedKey(address=address_of(private_key), private_key=private_key, created=created)


def key_file(key: OwnedKey, kind: str = "owner") -> bytes:
    """The file form of a key (JSON, one field a line). Who has the file has the key."""
    record = _KeyFile(
        flowork_key=_VERSION,
        kind=kind,
        address=checksummed(key.address),
        private_key=key.private_key.reveal(),
        created=key.created,
    )
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


def parse_key(text: str | bytes) -> OwnedKey:
    """The key in a text that a person pasted, or in a key file. Raises ``KeysError`` saying what is wrong.

    Reads the JSON of :func:`key_file`, and plain digits with any lines that start with ``#``.
    """
    content = _as_text(text)
    if content.startswith("{"):
        record = _decode(content)
        key = owned_key(_private_key(record.private_key), record.created)
        if key.address != record.address.lower():
            raise KeysError("the key file's address does not belong to its private key: the file is damaged")
        return key
    lines = [line.strip() for line in content.splitlines() if not line.lstrip().startswith("#")]
    return owned_key(_private_key("".join(lines)))


def read_key_file(content: bytes) -> OwnedKey:
    """A key file that we wrote ourselves: its address is believed, so that no start waits for arithmetic.

    Raises ``KeysError`` unless it is whole. :func:`parse_key` also checks that the two belong together.
    """
    record = _decode(_as_text(content))
    return OwnedKey(
        address=record.address.lower(),
        private_key=_private_key(record.private_key),
        created=record.created,
    )


def _as_text(text: str | bytes) -> str:
    if len(text) > _LONGEST:
        raise KeysError(f"this is not a key: it is longer than {_LONGEST} characters")
    if isinstance(text, str):
        return text.strip()
    try:
        return text.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise KeysError("this is not a key: it is not text") from None


def _decode(content: str) -> _KeyFile:
    try:
        record = msgspec.json.decode(content, type=_KeyFile)
    except (msgspec.DecodeError, UnicodeError):
        # msgspec's own words may hold a piece of the file, and the file holds a key.
        raise KeysError("this is not a whole Flowork key file (JSON with private_key and address)") from None
    if record.flowork_key != _VERSION:
        raise KeysError(f"the key file has version {record.flowork_key}; this Flowork reads version {_VERSION}")
    return record


def _private_key(digits: str) -> Secret:
    found = _DIGITS.fullmatch(digits.strip())
    if found is None:
        raise KeysError(f"a private key is {KEY_FORMAT}; this has {len(digits.strip())} characters")
    if not 0 < int(found[1], 16) < ORDER:
        raise KeysError("these digits are not a private key: the number is out of range")
    return Secret("0x" + found[1].lower())
