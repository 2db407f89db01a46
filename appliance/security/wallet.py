"""secp256k1 keys, addresses and personal messages: the one form that key files and Web3 wallets share.

The only importer of coincurve, which is loaded on first use (13 ms): a start that finds whole keys and an
idle engine never need it. Sources: SEC 2 (curve), EIP-55 (checksum), EIP-191 (personal message), EIP-2 (low s).
"""

from __future__ import annotations

import re
import secrets

from appliance.contracts import FlowError
from appliance.security.keccak import keccak256
from appliance.security.secret import Secret

#: The order of the curve's group: a private key lies between 1 and this, exclusive.
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}")


class BadAddress(FlowError):
    """Not an address, or one with a typing error in it."""

    id = "bad-address"
    retryable = False


class BadSignature(FlowError):
    """Not a signature that any key can have made of the text."""

    id = "bad-signature"
    retryable = False


def new_private_key() -> Secret:
    """A random private key as ``0x`` and 64 hex digits."""
    return Secret(f"0x{secrets.randbelow(ORDER - 1) + 1:064x}")


def address_of(private_key: Secret) -> str:
    """The address of a private key, in lower case: the form in which addresses are kept and compared."""
    from coincurve import PrivateKey

    return _address(PrivateKey.from_hex(private_key.reveal()[2:]).public_key.format(compressed=False))


def address_of_public_key(key: bytes) -> str:
    """The address of a public key, compressed (33 bytes) or not (65), as SEC 1 writes it. Raises ``BadAddress``."""
    from coincurve import PublicKey

    try:
        return _address(PublicKey(key).format(compressed=False))
    except ValueError:
        raise BadAddress("this is no public key of a secp256k1 key; check that it was copied whole") from None


def parse_address(text: str) -> str:
    """An address in lower case. Mixed case must carry the right EIP-55 checksum. Raises ``BadAddress``."""
    given = text.strip()
    if not _ADDRESS.fullmatch(given):
        raise BadAddress("an address is 0x and 40 hex digits; check that it was copied whole")
    lower = given.lower()
    if given[2:] not in (lower[2:], lower[2:].upper()) and given != checksummed(lower):
        raise BadAddress(f"{given} has a typing error: its upper and lower case letters do not match (EIP-55)")
    return lower


def checksummed(address: str) -> str:
    """The address as wallets show it: its case is a checksum (EIP-55)."""
    digits = address[2:].lower()
    nibbles = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) > 7 else digit for digit, nibble in zip(digits, nibbles[:40], strict=True)
    )


def message_hash(text: str) -> bytes:
    """What is really signed for a personal message (EIP-191, version 0x45)."""
    message = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(message)).encode() + message)


def sign_message(private_key: Secret, text: str) -> str:
    """The personal-message signature of ``text``: ``0x`` and r, s, v (27 or 28) as 130 hex digits."""
    from coincurve import PrivateKey

    key = PrivateKey.from_hex(private_key.reveal()[2:])
    made = key.sign_recoverable(message_hash(text), hasher=None)
    return "0x" + (made[:64] + bytes((made[64] + 27,))).hex()


def recover(text: str, signature: str) -> str:
    """The address, in lower case, whose key made ``signature`` of ``text``. Raises ``BadSignature``.

    A high ``s`` is refused: it would be a second valid signature of the same text (EIP-2).
    """
    from coincurve import PublicKey

    if not _SIGNATURE.fullmatch(signature):
        raise BadSignature("a signature is 0x and 130 hex digits (r, s, v); check that it was copied whole")
    raw = bytes.fromhex(signature[2:])
    recovery = raw[64] - 27 if raw[64] >= 27 else raw[64]
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:64], "big")
    if recovery not in (0, 1) or not 0 < r < ORDER or not 0 < s <= ORDER // 2:
        raise BadSignature("the signature is not in the form that EIP-191 wallets make (low s, v 27 or 28)")
    try:
        public = PublicKey.from_signature_and_message(raw[:64] + bytes((recovery,)), message_hash(text), hasher=None)
    except ValueError:  # r is on no point of the curve, or the text is not Unicode (a lone surrogate)
        raise BadSignature("no key can have made this signature of this text") from None
    return _address(public.format(compressed=False))


def _address(public_key: bytes) -> str:
    return "0x" + keccak256(public_key[1:])[-20:].hex()
