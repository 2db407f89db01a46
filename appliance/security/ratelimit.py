"""Token buckets, one per caller: so many calls at once, then so many a second. Bounded and thread-safe."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from appliance.security.roles import Identity


class Rate(Struct, frozen=True):
    """``burst`` calls at once, refilled by ``per_second``."""

    per_second: float
    burst: float


#: What the gateway allows a caller: sign-in attempts, everything else signed in, and webhooks.
SIGN_IN = Rate(per_second=0.2, burst=10)
API = Rate(per_second=50, burst=200)
HOOK = Rate(per_second=500, burst=2000)


class Decision(Struct, frozen=True):
    """``retry_after``: seconds until the same call would be allowed, 0 if it is; ``remaining`` whole calls."""

    allowed: bool
    retry_after: float
    remaining: int


class RateLimiter:
    """Buckets for one :class:`Rate`. ``clock``: monotonic seconds.

    Past ``capacity`` callers the one unseen for longest is forgotten, that is, trusted again: whoever owns many
    addresses gets more than one bucket, but no memory. Key on identities, and on networks for strangers
    (:func:`caller_key`).
    """

    def __init__(self, rate: Rate, *, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        if rate.per_second <= 0 or rate.burst < 1 or capacity < 1:
            raise ValueError("a rate needs per_second > 0, burst >= 1 and capacity >= 1")
        self._rate = rate
        self._capacity = capacity
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key → (calls left, when)
        self._lock = threading.Lock()

    def take(self, key: str, cost: float = 1.0) -> Decision:
        """Take ``cost`` calls from the caller's bucket, all or none. ``cost`` is at most the burst.

        A refused call costs nothing, so who keeps trying is let in as soon as who waits.
        """
        rate = self._rate
        if not 0 < cost <= rate.burst:
            raise ValueError("cost must be more than 0 and at most the burst")
        with self._lock:
            now = self._clock()
            level, when = self._buckets.pop(key, (rate.burst, now))
            level = min(rate.burst, level + max(0.0, now - when) * rate.per_second)
            allowed = level >= cost
            level -= cost if allowed else 0.0
            self._buckets[key] = (level, now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        return Decision(allowed, 0.0 if allowed else (cost - level) / rate.per_second, int(level))

    def __len__(self) -> int:
        return len(self._buckets)


def caller_key(identity: Identity, remote: str) -> str:
    """What a caller is counted by: who they are; strangers by address, in IPv6 by their /64 network.

    A home is given a whole /64: counting single IPv6 addresses would count nothing.
    """
    if identity.kind != "anonymous":
        return identity.label
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return "net:?"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"net:{address.ipv4_mapped}"
        return f"net:{ipaddress.ip_network((int(address), 64), strict=False).network_address}/64"
    return f"net:{address}"
