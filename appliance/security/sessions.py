"""Sessions of signed-in people: random tokens in a cookie, of which only a hash is kept.

A session slides: it ends ``idle`` seconds after its last use, and ``longest`` seconds after its start whatever
happens. Renewal is written only when it moves the end by a tenth of ``idle``: a card is not worn by clicking.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from appliance.security.roles import Unauthorized
from appliance.security.secret import Secret

_BYTES = 32
_TOKEN_LENGTH = 43  # of 32 bytes in base64url without padding
DAY = 86400.0


class Session(Protocol):
    """One row: SHA-256 of the token in hex, the address (lower case), and times in Unix seconds."""

    @property
    def hash(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def created(self) -> float: ...
    @property
    def expires(self) -> float: ...


class SessionRepo(Protocol):
    """Where sessions are kept."""

    def add(self, digest: str, address: str, created: float, expires: float) -> None: ...

    def get(self, digest: str) -> Session | None: ...

    def extend(self, digest: str, expires: float) -> None: ...

    def delete(self, digest: str) -> bool: ...

    def delete_of(self, address: str) -> int:
        """End all sessions of an address; how many there were."""

    def delete_expired(self, now: float) -> int: ...


class Sessions:
    """Starts, checks and ends sessions."""

    def __init__(
        self,
        repo: SessionRepo,
        *,
        now: Callable[[], float] = time.time,
        idle: float = 7 * DAY,
        longest: float = 30 * DAY,
    ) -> None:
        self._repo = repo
        self._now = now
        self._idle = idle
        self._longest = longest

    def start(self, address: str) -> tuple[Secret, float]:
        """A new session of ``address``: the cookie's value, and when it ends if it is not used."""
        token, now = secrets.token_urlsafe(_BYTES), self._now()
        expires = now + min(self._idle, self._longest)
        self._repo.delete_expired(now)
        self._repo.add(_hash(token), address, now, expires)
        return Secret(token), expires

    def check(self, token: str) -> str:
        """The address that the session belongs to; slides its end. Raises ``Unauthorized``."""
        session = self._repo.get(_hash(token)) if len(token) == _TOKEN_LENGTH else None
        now = self._now()
        if session is None or session.expires <= now:
            raise Unauthorized("the session has ended; sign in again")
        end = min(now + self._idle, session.created + self._longest)
        if end - session.expires > self._idle / 10:
            self._repo.extend(session.hash, end)
        return session.address

    def end(self, token: str) -> bool:
        """Sign out; False if there was no such session."""
        return self._repo.delete(_hash(token))

    def end_all(self, address: str) -> int:
        """Sign an address out everywhere; how many sessions it had."""
        return self._repo.delete_of(address)


def cookie_name(engine: str) -> str:
    """The cookie's name: cookies know no ports, so two engines on one host must not share one."""
    return f"flowork_{engine}"


def cookie_options(secure: bool, max_age: float) -> dict[str, bool | str | int]:
    """What Flask's ``set_cookie`` takes beside name and value; ``secure`` when the page came over https."""
    return {"httponly": True, "samesite": "Strict", "secure": secure, "path": "/", "max_age": int(max_age)}


def _hash(token: str) -> str:
    # A fast hash will do: 256 random bits cannot be guessed. It is looked up, not compared, so nothing leaks.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
