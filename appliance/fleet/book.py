"""The agents that were paired with this engine: a file each in ``keys/agents/``, so that copying the folder moves them.

A file holds the agent's certificate, and so is all that makes it known. No secret is in it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.security.files import keys_folder, remove, write_atomic

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class Paired(Struct, kw_only=True):
    """One agent. ``id`` is the fingerprint of its certificate (SHA-256, hex), ``machine`` what hardware it runs on."""

    name: str
    id: str
    certificate: str
    machine: str = ""
    host: str = ""
    at: float = 0.0


def unknown(name: str, known: Iterable[str]) -> str:
    """What to say to somebody who names an agent that there is not."""
    there = ", ".join(sorted(each for each in known if each)) or "none"
    return f"there is no agent {name!r} (paired are: {there}); pair it with `flowork agent pair {name}`"


def check_name(name: str) -> str:
    """A name for an agent. Raises ``ConfigError``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a name for an agent: small letters, digits, - and _, at most 40")
    return name


class Book:
    """The paired agents of a data folder; another process may read it at any time."""

    def __init__(self, data: Path) -> None:
        self._folder = keys_folder(data) / "agents"

    def all(self) -> list[Paired]:
        """By name. A file that cannot be read is left out, and said so."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Paired))
            except (OSError, msgspec.DecodeError) as exc:
                logger.error("the agent in %s is not known any more: %s", path, exc)
        return found

    def names(self) -> list[str]:
        return [path.stem for path in sorted(self._folder.glob("*.json"))]

    def write(self, agent: Paired) -> None:
        """Keep an agent, durably."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._folder / f"{check_name(agent.name)}.json", msgspec.json.encode(agent))

    def remove(self, name: str) -> None:
        """Forget one. Raises ``ConfigError`` if there is none."""
        path = self._folder / f"{check_name(name)}.json"
        if not path.exists():
            raise ConfigError(f"there is no agent {name!r}")
        remove(path)
