"""Keeps the drivers that are not used out of memory.

``huey.storage`` imports redis and psycopg, and ``huey.consumer`` gevent, whenever they are installed. That
is 25 MB and 150 ms in every process of an appliance that uses none of them, so they are hidden while huey
is imported for the first time; :func:`load` brings one in when a queue URL asks for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from appliance.contracts import ConfigError

_OPTIONAL = ("redis", "psycopg", "gevent", "cysqlite")


@contextmanager
def _hidden() -> Iterator[None]:
    """Inside, an import of an optional driver that is not loaded yet raises ``ImportError``."""
    names = [name for name in _OPTIONAL if name not in sys.modules]
    # None in sys.modules is the documented way to make an import fail; typeshed has no word for it.
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            modules.pop(name, None)


with _hidden():
    import huey.consumer
    import huey.storage

#: The module with Huey's storages; Any, because :func:`load` gives it names that it does not export.
storages: Any = huey.storage

_failures: list[type[Exception]] = []


def failures() -> tuple[type[Exception], ...]:
    """The base classes of what the loaded drivers raise, for an ``except`` clause."""
    return tuple(_failures)


def load(name: str, extra: str) -> None:
    """Make huey see the driver ``name``. Raises ``ConfigError`` naming the pip extra when it is missing."""
    try:
        driver = importlib.import_module(name)
    except ImportError as exc:
        raise ConfigError(
            f"this queue URL needs the Python package {name}, which cannot be used here ({exc}); "
            f"install it with: pip install 'flowork[{extra}]'"
        ) from None
    if name == "redis":
        storages.ConnectionPool = driver.ConnectionPool
        storages.Redis = storages.RedisStorage.redis_client = driver.Redis
        storages.ConnectionError = driver.exceptions.ConnectionError
        storages.TimeoutError = driver.exceptions.TimeoutError
        _failures.append(driver.exceptions.RedisError)
    else:
        storages.psycopg = driver
        _failures.append(driver.Error)
