"""The shared service in Redis: a list for each box, a script for token buckets, plain keys for values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from appliance.contracts import ConfigError
from appliance.sharing.drivers import driver
from appliance.sharing.service import LONGEST_WAIT, MAX_MESSAGES, MESSAGE_AGE, BoxFull, ServiceAway

#: Seconds for which the difference between the server's clock and ours is believed; to wait for a connection.
_CLOCK_AGE = 60.0
_CONNECT = 3.0
_AT_ONCE = 500
#: A bucket is a hash of its level and when that was; refilled when it is looked at. Times are the server's.
_TAKE = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1000000
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = tonumber(kept[1]) or burst
local since = now - (tonumber(kept[2]) or now)
level = math.min(burst, level + math.max(0, since) * rate)
local answer
if level >= cost then
  level = level - cost
  answer = level
else
  answer = -(cost - level) / rate
end
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * burst / rate) + 1000)
return tostring(answer)
"""
_SEND = """
local count = redis.call('LLEN', KEYS[1])
if count >= tonumber(ARGV[2]) then return -1 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return count
"""


class RedisService:
    """See :class:`appliance.sharing.service.Service`."""

    def __init__(self, url: str, name: str) -> None:
        self._redis = driver("redis", "redis")
        options = {
            "socket_connect_timeout": _CONNECT,
            "socket_keepalive": True,
            "health_check_interval": 30,
            "client_name": "flowork",
        }
        try:
            self._client: Any = self._redis.Redis.from_url(url, socket_timeout=_CONNECT, **options)
            # Waits on the server for longer than any other answer may take, but not for one that was unplugged.
            self._waiting: Any = self._redis.Redis.from_url(url, socket_timeout=LONGEST_WAIT + _CONNECT, **options)
        except ValueError as exc:
            raise ConfigError(f"the queue's Redis URL cannot be used: {exc}") from None
        self._prefix = f"flowork:{name}:"
        self._take = self._client.register_script(_TAKE)
        self._send = self._client.register_script(_SEND)
        self._offset: tuple[float, float] | None = None
        self._closed = threading.Event()

    def clock(self) -> float:
        """See the protocol."""
        now = time.monotonic()
        known = self._offset
        if known is None or now - known[0] > _CLOCK_AGE:
            seconds, micros = self._ask(self._client.time)
            known = self._offset = (now, seconds + micros / 1e6 - (now + time.monotonic()) / 2)
        return time.monotonic() + known[1]

    def send(self, box: str, data: bytes) -> None:
        """See the protocol."""
        arguments = [data, MAX_MESSAGES, int(MESSAGE_AGE * 1000)]
        if self._ask(lambda: self._send(keys=[self._box(box)], args=arguments)) < 0:
            raise BoxFull(f"{MAX_MESSAGES:,} messages lie in {box} already")

    def receive(self, box: str, timeout: float) -> list[bytes]:
        """See the protocol."""
        key = self._box(box)
        with self._explained():
            found = self._waiting.blpop([key], min(timeout, LONGEST_WAIT))
            if found is None:
                return []
            return [found[1], *(self._client.lpop(key, _AT_ONCE) or [])]

    def take(self, key: str, per_second: float, burst: float, cost: float) -> float:
        """See the protocol."""
        return float(self._ask(lambda: self._take(keys=[self._key("bucket", key)], args=[per_second, burst, cost])))

    def put_new(self, key: str, value: bytes, age: float) -> bytes | None:
        """See the protocol."""
        name, milliseconds = self._key("value", key), max(1, int(age * 1000))
        # One command (Redis 7): set it, or say what is there.
        found: bytes | None = self._ask(lambda: self._client.set(name, value, px=milliseconds, nx=True, get=True))
        return found

    def put(self, key: str, value: bytes, age: float) -> None:
        """See the protocol."""
        self._ask(lambda: self._client.set(self._key("value", key), value, px=max(1, int(age * 1000))))

    def drop(self, key: str) -> None:
        """See the protocol."""
        self._ask(lambda: self._client.delete(self._key("value", key)))

    def close(self) -> None:
        """See the protocol."""
        self._closed.set()
        self._client.close()
        self._client.connection_pool.disconnect()
        self._waiting.close()
        self._waiting.connection_pool.disconnect()

    def _box(self, name: str) -> str:
        return self._key("box", name)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _ask(self, call: Callable[[], Any]) -> Any:
        with self._explained():
            return call()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (self._redis.RedisError, OSError, ValueError) as exc:  # ValueError: it was closed meanwhile
            raise ServiceAway(f"the cluster's Redis cannot be used: {exc}") from None
