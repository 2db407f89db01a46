"""What can be said of a driver's config before any agent has it: while a flow is being saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.fleet.book import Book
from drivers.base import DriverError, decode, find


def fault(data: Path | None, agent: str, driver: str, config: Mapping[str, Any]) -> str:
    """What is wrong, in words; empty if nothing is. Templates are not judged before they are filled in.

    ``data`` is the folder of the engine whose agents are known; without it any name is taken.
    """
    if _has_template(driver) or _has_template(agent):
        return ""
    if agent and data is not None and agent not in (known := Book(data).names()):
        return f"there is no agent {agent!r} (paired are: {', '.join(known) or 'none'}); flowork agent pair pairs one"
    try:
        kind = find(driver)
        if not _has_template(config):
            decode(kind.Config, config)
    except DriverError as exc:
        return exc.message
    return ""


def _has_template(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_template, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_template, value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)
