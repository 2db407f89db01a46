"""What can be said of a driver's config before any agent has it: while a flow is being saved."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from appliance.fleet.book import Book, unknown
from appliance.fleet.remote import source_key
from drivers.base import DriverError, decode, find


def fault(data: Path | None, agent: str, driver: str, config: Mapping[str, Any]) -> str:
    """What is wrong, in words; empty if nothing is. Templates are not judged before they are filled in.

    ``data`` is the folder of the engine whose agents are known; without it any name is taken.
    """
    if _has_template(driver) or _has_template(agent):
        return ""
    if agent and data is not None and agent not in (known := Book(data).names()):
        return unknown(agent, known)
    try:
        kind = find(driver)
        if not _has_template(config):
            decode(kind.Config, config)
    except DriverError as exc:
        return exc.message
    return ""


def claimed(agent: str, driver: str, config: Mapping[str, Any]) -> tuple[frozenset[str], str] | None:
    """What there is only one of that a driver with this config holds, and its settings as they compare.

    None if nothing, or if that is not known yet. On this machine a look at it tells more than the names do.
    """
    if _has_template([agent, driver, config]):
        return None
    try:
        kind = find(driver)
        decoded = decode(kind.Config, config)
    except DriverError:
        return None
    names = kind.resources(decoded)
    if not agent and names:
        with suppress(Exception):  # what cannot be looked at from here goes by its name
            names = kind(decoded, _NoHost()).claims()
    return (frozenset(names), source_key(driver, msgspec.to_builtins(decoded))) if names else None


class _NoHost:
    """For a driver that is asked what it would take, and not run."""

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    def state(self, name: str) -> Path:
        raise NotImplementedError

    def blob(self, data: bytes, mime: str) -> dict[str, Any]:
        raise NotImplementedError


def _has_template(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_template, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_template, value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)
