"""What gateways of a cluster must agree on: how often a caller has called, and what was answered to a key.

Both lie in the shared service. While that is away each gateway counts and remembers by itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import msgspec

from appliance.contracts import FlowError
from appliance.gateway.idempotency import DAY, Answer, InProgress, KeyReused, Remembered
from appliance.security.ratelimit import Decision, Rate, RateLimiter
from appliance.security.sealing import Cipher, NotSealed
from appliance.sharing.service import Service

logger = logging.getLogger(__name__)

#: Seconds for which a request counts as being worked on; bytes of an answer that is kept.
_LONGEST_WORK = 600.0
_MAX_ANSWER = 1_000_000


class SharedLimiter(RateLimiter):
    """A bucket for each caller that all gateways take from. Our own is asked first: who floods us costs no one else."""

    def __init__(self, name: str, rate: Rate, service: Callable[[], Service]) -> None:
        super().__init__(rate)
        self._name = name
        self._service = service
        self._away = False

    def take(self, key: str, cost: float = 1.0) -> Decision:
        """See :meth:`RateLimiter.take`."""
        own = super().take(key, cost)
        if not own.allowed:
            return own
        rate = self._rate
        try:
            left = self._service().take(f"{self._name}:{key}", rate.per_second, rate.burst, cost)
        except FlowError as exc:
            if not self._away:
                logger.warning("callers are counted by this gateway alone: %s", exc.message)
            self._away = True
            return own
        self._away = False
        return Decision(left >= 0, max(0.0, -left), max(0, int(left)))


class _Kept(msgspec.Struct, array_like=True):
    digest: bytes
    answer: Answer | None = None


class SharedRemembered(Remembered):
    """Answers by key, sealed: one may hold a token that is shown once."""

    def __init__(
        self, clock: Callable[[], float], service: Callable[[], Service], cipher: Callable[[], Cipher]
    ) -> None:
        super().__init__(clock)
        self._service = service
        self._cipher = cipher
        self._working: dict[str, bytes] = {}

    def begin(self, key: str, digest: bytes) -> Answer | None:
        """See :meth:`Remembered.begin`."""
        name = _name(key)
        try:
            sealed = self._service().put_new(name, self._seal(name, _Kept(digest)), _LONGEST_WORK)
        except FlowError as exc:
            logger.warning("an Idempotency-Key is known to this gateway alone: %s", exc.message)
            return super().begin(key, digest)
        kept = None if sealed is None else self._open(name, sealed)
        if kept is None:
            self._working[key] = digest
            return None
        if kept.digest != digest:
            raise KeyReused("this Idempotency-Key came before with another request; use a new one")
        if kept.answer is None:
            raise InProgress("the first request with this Idempotency-Key is still being worked on")
        return kept.answer

    def keep(self, key: str, answer: Answer) -> None:
        """See :meth:`Remembered.keep`."""
        digest = self._working.pop(key, None)
        if digest is None:
            super().keep(key, answer)
        elif len(answer.data) > _MAX_ANSWER:
            self._drop(key)
        else:
            name = _name(key)
            try:
                self._service().put(name, self._seal(name, _Kept(digest, answer)), DAY)
            except FlowError as exc:
                logger.warning("an answer is not remembered: %s", exc.message)

    def drop(self, key: str) -> None:
        """See :meth:`Remembered.drop`."""
        if self._working.pop(key, None) is None:
            super().drop(key)
        else:
            self._drop(key)

    def _drop(self, key: str) -> None:
        try:
            self._service().drop(_name(key))
        except FlowError as exc:
            logger.warning("a key stays taken for a while: %s", exc.message)

    def _seal(self, name: str, kept: _Kept) -> bytes:
        return self._cipher().seal(msgspec.msgpack.encode(kept), name.encode())

    def _open(self, name: str, sealed: bytes) -> _Kept | None:
        try:
            return msgspec.msgpack.decode(self._cipher().open(sealed, name.encode()), type=_Kept)
        except (NotSealed, msgspec.MsgspecError) as exc:
            logger.error("a remembered answer cannot be read: %s", exc)
            return None


def _name(key: str) -> str:
    """Keys come from strangers, and hold their names."""
    return f"answer:{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}"
