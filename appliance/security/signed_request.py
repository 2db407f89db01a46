"""Requests signed with a private key, for machines that share no secret with this box.

The signature binds receiver, method, path with query, body, time and a nonce, so what was caught on the wire
can neither be changed, nor sent again, nor sent to another engine. It is a personal message (EIP-191), so any
Ethereum library can make it. Form of the header, on one line::

    Authorization: Flowork address=0x…, time=1795224098, nonce=5f0c…, signature=0x…

and of the signed text, with LF between its seven lines (SHA-256 in lower-case hex)::

    Flowork request v1
    <engine id of the receiver>
    <METHOD>
    <path and query exactly as sent, for example /api/v1/flows?limit=10>
    <SHA-256 of the body>
    <time: Unix seconds>
    <nonce: 16 to 64 of A-Z a-z 0-9 _ ->
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable

from appliance.security.nonces import NonceRepo
from appliance.security.roles import Unauthorized
from appliance.security.secret import Secret
from appliance.security.wallet import BadSignature, address_of, recover, sign_message

SCHEME = "Flowork"
_HEADER = re.compile(
    r"Flowork address=(0x[0-9a-fA-F]{40}), ?time=([0-9]{1,11}(?:\.[0-9]{1,6})?), ?"
    r"nonce=([A-Za-z0-9_-]{16,64}), ?signature=(0x[0-9a-fA-F]{130})"
)


def sign_request(
    private_key: Secret, method: str, target: str, body: bytes, *, engine: str, now: float
) -> dict[str, str]:
    """The header for a request to the engine with the id ``engine``. ``target`` is the path with its query."""
    moment, nonce = f"{now:.3f}", secrets.token_urlsafe(18)
    signature = sign_message(private_key, _text(engine, method, target, body, moment, nonce))
    address = address_of(private_key)
    value = f"{SCHEME} address={address}, time={moment}, nonce={nonce}, signature={signature}"
    return {"Authorization": value}


class RequestVerifier:
    """Checks signed requests to the engine with the id ``engine``.

    ``skew``: seconds by which the sender's clock may be off, either way.
    """

    def __init__(
        self, engine: str, nonces: NonceRepo, *, now: Callable[[], float] = time.time, skew: float = 60.0
    ) -> None:
        self._engine = engine
        self._nonces = nonces
        self._now = now
        self._skew = skew

    def verify(self, header: str, method: str, target: str, body: bytes, *, known: Callable[[str], bool]) -> str:
        """The address, in lower case, that signed this very request, once.

        ``header`` is the Authorization header; ``target`` the path and query as they came over the wire (not
        decoded: gunicorn's ``RAW_URI``). Raises ``Unauthorized`` with the reason, ``Busy`` if too many
        nonces are in use.
        """
        found = _HEADER.fullmatch(header.strip())
        if found is None:
            raise Unauthorized("write: Authorization: Flowork address=0x…, time=…, nonce=…, signature=0x…")
        address, moment, nonce, signature = found.groups()
        sent, now = float(moment), self._now()
        if abs(now - sent) > self._skew:
            raise Unauthorized(
                f"the request was signed at {moment}, but this box's clock says {now:.0f} (Unix seconds); at most "
                f"{self._skew:.0f} seconds may lie between: set one of the clocks right"
            )
        try:
            signer = recover(_text(self._engine, method, target, body, moment, nonce), signature)
        except BadSignature as exc:
            raise Unauthorized(exc.message) from None
        if signer != address.lower():
            raise Unauthorized(
                "the signature does not fit this request: it must cover the engine id, method, path with query, "
                "body, time and nonce exactly as sent"
            )
        if not known(signer):
            raise Unauthorized("this key signed correctly, but has no access to this box; ask its owner to add it")
        # Forgotten only when the time alone refuses it.
        if not self._nonces.use(f"{signer}:{nonce}", sent, sent + self._skew):
            raise Unauthorized("this request came before, or was signed before the engine started; sign a new one")
        return signer


def _text(engine: str, method: str, target: str, body: bytes, moment: str, nonce: str) -> str:
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join((f"{SCHEME} request v1", engine, method.upper(), target, digest, moment, nonce))
