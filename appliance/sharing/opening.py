"""Which kind of service a cluster's URL means; a driver is imported only where it is used."""

from __future__ import annotations

from urllib.parse import urlsplit

from appliance.contracts import ConfigError
from appliance.sharing.service import Service


def open_service(url: str, name: str) -> Service:
    """The service at a ``redis://`` or ``postgresql://`` URL, for the cluster ``name``. Connects at first use.

    Raises ``ConfigError`` for another URL or a missing driver.
    """
    match urlsplit(url).scheme:
        case "redis" | "rediss":
            from appliance.sharing.redis_service import RedisService

            return RedisService(url, name)
        case "postgresql" | "postgres":
            from appliance.sharing.postgres_service import PostgresService

            return PostgresService(url, name)
    raise ConfigError("a cluster's queue URL must be redis://, rediss:// or postgresql://")
