"""Makes the queue that a URL names: our own SQLite storage, or Huey's Redis or Postgres storage."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from huey.storage import PostgresStorage, PriorityRedisStorage

from appliance.contracts import ConfigError
from appliance.queue import drivers
from appliance.queue.errors import QueueError
from appliance.queue.storage import LeasedSqliteStorage
from appliance.queue.tasks import TaskQueue

_EXAMPLES = "write redis://host:6379/0, postgresql://user@host/database or sqlite:////path/queue.db"


def make_huey(url: str | None, data: Path, name: str = "flowork", synchronous: str = "NORMAL") -> TaskQueue:
    """The queue at ``url``; without one, ``queue.db`` in the folder ``data``. Results are not kept.

    ``sqlite:///queue.db`` is relative to ``data``, ``sqlite:////var/queue.db`` absolute. ``synchronous``
    (NORMAL or FULL) is for SQLite. Raises ``ConfigError`` for a URL that is wrong or whose driver is
    missing, and ``QueueError`` when Postgres cannot be reached (Redis is reached on first use).
    """
    if not url:
        return _sqlite(data / "queue.db", name, synchronous)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"the queue URL cannot be read; {_EXAMPLES}") from None
    match parts.scheme:
        case "sqlite":
            return _sqlite(_path(parts, data), name, synchronous)
        case "redis" | "rediss":
            return _redis(url, name)
        case "postgresql" | "postgres":
            return _postgres(url, name, parts)
    raise ConfigError(f"the queue URL's scheme {parts.scheme!r} is not known; {_EXAMPLES}")


def _path(parts: SplitResult, data: Path) -> Path:
    if parts.netloc or parts.query or len(parts.path) < 2:
        raise ConfigError("a SQLite queue URL is sqlite:///name in the data folder or sqlite:////path/name")
    return data / parts.path[1:]


def _sqlite(path: Path, name: str, synchronous: str) -> TaskQueue:
    return TaskQueue(name, results=False, storage_class=LeasedSqliteStorage, path=path, synchronous=synchronous)


def _redis(url: str, name: str) -> TaskQueue:
    drivers.load("redis", "redis")
    try:
        return TaskQueue(name, results=False, storage_class=PriorityRedisStorage, url=url)
    except ValueError as exc:
        raise ConfigError(f"the queue's Redis URL cannot be used: {exc}") from None


def _postgres(url: str, name: str, parts: SplitResult) -> TaskQueue:
    drivers.load("psycopg", "postgres")
    try:
        return TaskQueue(name, results=False, storage_class=PostgresStorage, dsn=url)
    except drivers.failures() as exc:
        # Not the URL itself: it may hold a password.
        raise QueueError(f"the queue's Postgres at {parts.hostname} cannot be used: {exc}") from None
