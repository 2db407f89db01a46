"""Seals messages between the processes of one cluster with a key that all its machines hold.

Who can write to the shared Redis must not be able to start a run with that: a message is AES-256-GCM (NIST SP
800-38D) under a key made of the engine's own, bound to the box that it is for, and each counts once.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from appliance.contracts import FlowError

_NONCE = 12
_LIFE, _NUMBER = 8, 8
_HEAD = _LIFE + _NUMBER
#: How many messages of one sender may come out of order, and how many senders are remembered.
_WINDOW = 4096
_SENDERS = 512


class NotSealed(FlowError):
    """A message that was not made by this cluster for this box, or that came before."""

    id = "not-sealed"
    retryable = False


class Cipher:
    """AES-256-GCM under one key: the nonce in front, the tag behind."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 bytes that all machines of the cluster have, and nobody else."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead = AESGCM(key)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """The data for one purpose: whoever opens it must name the same."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, data, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The data. Raises ``NotSealed``."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
        except (InvalidTag, ValueError):
            raise NotSealed("this was not sealed by this cluster; do all machines have the same keys?") from None


class Sealer:
    """Seals the messages that this process sends. Safe from any thread."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._life = secrets.token_bytes(_LIFE)
        self._number = 0
        self._lock = threading.Lock()

    def seal(self, data: bytes, box: str) -> bytes:
        """The message for a box: in it this process's life and the message's number, so that it counts once."""
        with self._lock:
            self._number += 1
            number = self._number
        return self._cipher.seal(self._life + number.to_bytes(_NUMBER, "big") + data, box.encode())


class Opener:
    """Opens what comes into one box. For the thread that empties it."""

    def __init__(self, cipher: Cipher, box: str) -> None:
        self._cipher = cipher
        self._box = box.encode()
        self._seen: OrderedDict[bytes, tuple[int, set[int]]] = OrderedDict()

    def open(self, message: bytes) -> bytes:
        """The data. Raises ``NotSealed``."""
        data = self._cipher.open(message, self._box)
        if self._came_before(data[:_LIFE], int.from_bytes(data[_LIFE:_HEAD], "big")):
            raise NotSealed("a message came twice")
        return data[_HEAD:]

    def _came_before(self, sender: bytes, number: int) -> bool:
        newest, seen = self._seen.pop(sender, (0, set()))
        again = number in seen or number <= newest - _WINDOW
        if not again:
            newest = max(newest, number)
            seen.add(number)
            if len(seen) > 2 * _WINDOW:
                seen = {kept for kept in seen if kept > newest - _WINDOW}
        self._seen[sender] = (newest, seen)
        while len(self._seen) > _SENDERS:
            self._seen.popitem(last=False)
        return again
