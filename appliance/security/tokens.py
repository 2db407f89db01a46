"""Engine tokens for machines: ``flw_<id>_<secret>``, scoped, hashed, revocable, shown once."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.security.roles import (
    DEFAULT_WORKSPACE,
    SCOPES,
    Forbidden,
    Identity,
    Unauthorized,
    grantable_scopes,
    require,
)
from appliance.security.secret import Secret

PREFIX = "flw_"
_TOKEN = re.compile(r"flw_([0-9a-z]{13})_([0-9a-z]{52})", re.ASCII)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: 13 characters hold 65 bits, 52 hold 260
#: Seconds between two notes of a token's last use: it says "today" or "long ago", and wears no card.
LAST_USED_EVERY = 3600.0
_LONGEST_NAME = 100


class Token(Protocol):
    """One row; times in Unix seconds.

    ``hash``: SHA-256 of the secret part in hex; ``address``: who made it (a user's address, else the label).
    """

    @property
    def id(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def workspace(self) -> str: ...
    @property
    def scopes(self) -> Collection[str]: ...
    @property
    def created(self) -> float: ...
    @property
    def expires(self) -> float | None: ...
    @property
    def last_used(self) -> float | None: ...
    @property
    def revoked(self) -> float | None: ...


class TokenRow(Struct, frozen=True, kw_only=True):
    """A token to be kept; the fields are those of :class:`Token`."""

    id: str
    hash: str
    name: str
    address: str
    workspace: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None = None
    last_used: float | None = None
    revoked: float | None = None


class TokenRepo(Protocol):
    """Where tokens are kept."""

    def add(self, token: Token) -> None: ...

    def get(self, token_id: str) -> Token | None: ...

    def of(self, address: str) -> Iterable[Token]:
        """The tokens that ``address`` made."""

    def revoke(self, token_id: str, when: float) -> bool:
        """False if there is no such token or it was revoked before."""

    def used(self, token_id: str, when: float) -> None: ...


class Tokens:
    """Makes, checks and revokes engine tokens."""

    def __init__(self, repo: TokenRepo, *, now: Callable[[], float] = time.time) -> None:
        self._repo = repo
        self._now = now

    def create(
        self,
        by: Identity,
        name: str,
        scopes: Iterable[str],
        *,
        workspace: str = DEFAULT_WORKSPACE,
        lifetime: float | None = None,
    ) -> tuple[Secret, TokenRow]:
        """A new token (its text, to be shown once, and its row) for ``lifetime`` seconds or for ever.

        Nobody can make one that reaches further than they do themselves. Raises ``Forbidden``, ``ConfigError``.
        """
        require(by, "tokens:write", workspace)
        wanted = _checked_scopes(scopes)
        if beyond := wanted - grantable_scopes(by, workspace):
            raise Forbidden(f"you cannot give what you do not have: {', '.join(sorted(beyond))}")
        if not 0 < len(name.strip()) <= _LONGEST_NAME:
            raise ConfigError(f"name: must have 1 to {_LONGEST_NAME} characters; it tells tokens apart")
        if lifetime is not None and not lifetime > 0:
            raise ConfigError("lifetime: must be more than 0 seconds; leave it out for a token without an end")
        token_id, secret, now = _random(13), _random(52), self._now()
        row = TokenRow(
            id=token_id,
            hash=_hash(secret),
            name=name.strip(),
            address=by.id if by.kind == "user" else by.label,
            workspace=workspace,
            scopes=tuple(sorted(wanted)),
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
        self._repo.add(row)
        return Secret(f"{PREFIX}{token_id}_{secret}"), row

    def check(self, text: str) -> Identity:
        """Who a bearer token is. Raises ``Unauthorized``; a wrong secret and an unknown id read the same."""
        found = _TOKEN.fullmatch(text)
        row = self._repo.get(found[1]) if found else None
        if found is None or row is None or not hmac.compare_digest(row.hash, _hash(found[2])):
            raise Unauthorized("the token is not valid here; check that it was copied whole (flw_…)")
        now = self._now()
        if row.revoked is not None:
            raise Unauthorized(f"the token {row.name!r} was revoked; make a new one")
        if row.expires is not None and row.expires <= now:
            raise Unauthorized(f"the token {row.name!r} has expired; make a new one")
        if row.last_used is None or abs(now - row.last_used) >= LAST_USED_EVERY:
            self._repo.used(row.id, now)
        return Identity(kind="token", id=row.id, name=row.name, scopes=frozenset(row.scopes), workspace=row.workspace)

    def revoke(self, by: Identity, token_id: str) -> bool:
        """End a token now; False if it had ended by revocation before. Raises ``Forbidden``."""
        row = self._repo.get(token_id)
        if row is None:
            return False
        require(by, "tokens:write", row.workspace)
        return self._repo.revoke(token_id, self._now())

    def revoke_all_of(self, address: str) -> int:
        """End all tokens that ``address`` made (its person has left); how many were ended."""
        return sum(self._repo.revoke(row.id, self._now()) for row in list(self._repo.of(address)))


def _checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    wanted = frozenset(scopes)
    if not wanted:
        raise ConfigError(f"scopes: at least one of {', '.join(SCOPES)}")
    if unknown := wanted - set(SCOPES):
        names = ", ".join(sorted(unknown))
        raise ConfigError(f"scopes: unknown: {names}; there are {', '.join(SCOPES)}")
    return wanted


def _random(length: int) -> str:
    return "".join(_ALPHABET[byte & 31] for byte in secrets.token_bytes(length))


def _hash(secret: str) -> str:
    # 260 random bits need no slow hash: there is no dictionary to try.
    return hashlib.sha256(secret.encode()).hexdigest()
