"""Signing in by private key: a challenge that a key file or a Web3 wallet signs.

The text is EIP-4361 ("Sign-In with Ethereum"), the signature EIP-191 (``personal_sign``). Issuing a challenge
stores nothing, so nobody can fill anything by asking for many: the nonce carries a MAC over the whole text.
Only a nonce that a known key has signed is remembered, until it would have expired.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.security.nonces import NonceRepo
from appliance.security.roles import Unauthorized
from appliance.security.wallet import BadSignature, checksummed, parse_address, recover

STATEMENT = "Sign in to Flowork. This costs nothing and sends nothing."
_RANDOM, _MAC = 16, 32  # hex digits of the two parts of a nonce
_NONCE = re.compile(rf"^Nonce: ([0-9a-f]{{{_RANDOM}}})([0-9a-f]{{{_MAC}}})$", re.MULTILINE)
_HEAD = re.compile(r"(?:http://)?(\S+) wants you to sign in with your Ethereum account:\n(0x[0-9a-fA-F]{40})\n")
_DOMAIN = re.compile(r"[A-Za-z0-9.\-_:\[\]]{1,255}")
_URI = re.compile(r"https?://[!-~]{1,2000}")
_LONGEST = 4096
#: A challenge from the future by more than this (seconds) means that the clock was set back in between.
_BACKWARDS = 5.0


class Challenge(Struct, frozen=True):
    """What is to be signed, byte for byte, and until when (Unix seconds)."""

    text: str
    expires: float


class SignIn:
    """Issues and checks challenges.

    ``key``: 32 secret bytes, the same in every gateway of the engine (``keys.derived_secret(data, "sign-in")``);
    ``ttl``: seconds that a challenge is good for.
    """

    def __init__(
        self, key: bytes, nonces: NonceRepo, *, now: Callable[[], float] = time.time, ttl: float = 300.0
    ) -> None:
        self._key = key
        self._nonces = nonces
        self._now = now
        self._ttl = ttl

    def challenge(self, address: str, *, domain: str, uri: str, chain_id: int = 1) -> Challenge:
        """A text for ``address`` to sign. Any address gets one: it does not tell who is known here.

        ``domain`` is the host (and port) that the browser shows, ``uri`` the page's address. The caller must
        have checked the domain with ``origins.host_allowed``, or a foreign page could pass our challenge on.
        Raises ``BadAddress`` and ``ConfigError``.
        """
        who = checksummed(parse_address(address))
        if not _DOMAIN.fullmatch(domain):
            raise ConfigError("domain: must be a host name or address, with a port if it is not the usual one")
        if not _URI.fullmatch(uri):
            raise ConfigError("uri: must be the page's http(s) address")
        if not 0 < chain_id < 2**63:
            raise ConfigError("chain_id: must be a positive number; 1 unless your wallet insists on another")
        issued = int(self._now() * 1000) / 1000  # as exact as the text tells it
        # EIP-4361: without a scheme a wallet takes the page for https, and warns when it is not.
        scheme = "http://" if uri.startswith("http://") else ""
        random = secrets.token_hex(_RANDOM // 2)
        text = (
            f"{scheme}{domain} wants you to sign in with your Ethereum account:\n{who}\n\n{STATEMENT}\n\n"
            f"URI: {uri}\nVersion: 1\nChain ID: {chain_id}\nNonce: {random}\n"
            f"Issued At: {_iso(issued)}\nExpiration Time: {_iso(issued + self._ttl)}"
        )
        whole = text.replace(f"\nNonce: {random}\n", f"\nNonce: {random}{self._mac(text)}\n")
        return Challenge(whole, issued + self._ttl)

    def verify(self, text: str, signature: str, *, domain: str, known: Callable[[str], bool]) -> str:
        """The address, in lower case, that signed the challenge ``text``; each challenge counts once.

        ``domain`` is the host of this request; ``known(address)`` says whether the address has access.
        Raises ``Unauthorized`` with the reason, ``Busy`` if too many nonces are in use.
        """
        nonce, who, wanted = self._ours(text)
        issued, expires = _times(text)
        now = self._now()
        if not issued - _BACKWARDS <= now < expires:
            raise Unauthorized("the challenge has expired; sign a new one")
        if wanted != domain:
            raise Unauthorized(f"the challenge was made for {wanted}, not for {domain}; sign in on one address")
        try:
            signer = recover(text, signature)
        except BadSignature as exc:
            raise Unauthorized(exc.message) from None
        if signer != who:
            raise Unauthorized("the signature was made by another key than the challenge names")
        if not known(signer):
            raise Unauthorized(f"{checksummed(signer)} has no access to this box; ask its owner to add it")
        if not self._nonces.use(nonce, issued, expires):
            raise Unauthorized("this challenge was used already; sign a new one")
        return signer

    def _ours(self, text: str) -> tuple[str, str, str]:
        """Nonce, address and domain of a text that we issued and nobody changed."""
        head = _HEAD.match(text) if len(text) <= _LONGEST else None
        nonce = _NONCE.search(text) if head else None
        if head is None or nonce is None:
            raise Unauthorized("this is not a challenge of this box; ask for a new one and sign it unchanged")
        bare = text[: nonce.end(1)] + text[nonce.end() :]
        if not hmac.compare_digest(self._mac(bare), nonce[2]):
            raise Unauthorized("the challenge was changed, or made by another engine; sign a new one")
        return nonce[1] + nonce[2], head[2].lower(), head[1]

    def _mac(self, text: str) -> str:
        message = b"flowork challenge\0" + text.encode(errors="surrogatepass")
        return hmac.digest(self._key, message, "sha256").hex()[:_MAC]


def _times(text: str) -> tuple[float, float]:
    """Issued and expires, from a text whose MAC was right: both lines are there."""
    issued, expires = (line.partition(": ")[2] for line in text.splitlines()[-2:])
    return datetime.fromisoformat(issued).timestamp(), datetime.fromisoformat(expires).timestamp()


def _iso(moment: float) -> str:
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
