"""Ed25519 (RFC 8032): signatures of files that others make, such as releases. The library is loaded when used."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Bytes of a signature and of either key.
SIGNATURE, KEY = 64, 32


def new_key() -> str:
    """A private key, as text."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()


def public_of(private: str) -> str:
    """The public key of a private one, as text. Raises ``ValueError`` for what is none."""
    return base64.b64encode(_private(private).public_key().public_bytes_raw()).decode()


def sign(private: str, data: bytes) -> bytes:
    """The signature. Raises ``ValueError`` for a key that is none."""
    return _private(private).sign(data)


def verified(public: str, data: bytes, signature: bytes) -> bool:
    """Whether it was signed by this key. Raises ``ValueError`` for a key that is none."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw(public)).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _private(text: str) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(_raw(text))


def _raw(text: str) -> bytes:
    data = base64.b64decode(text.strip(), validate=True)
    if len(data) != KEY:
        raise ValueError("not a key: 32 bytes in base64 are wanted")
    return data
