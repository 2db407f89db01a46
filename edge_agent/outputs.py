"""Which drivers were commanded, on disk: after a crash their outputs are made safe before anything else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edge_agent.config import write_atomic

logger = logging.getLogger(__name__)


class Output(Struct):
    """A driver that was commanded, and its config."""

    driver: str
    config: dict[str, Any]


class Outputs:
    """Used on the agent's loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Output] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def remember(self, key: str, driver: str, config: dict[str, Any]) -> None:
        """Note it, before the command is carried out."""
        if key in self._known:
            return
        self._known[key] = Output(driver, config)
        try:
            write_atomic(self._path, msgspec.json.encode(list(self._known.values())))
        except OSError as exc:
            logger.error("after a crash, outputs could not be made safe: %s", exc.strerror)

    def left(self) -> list[Output]:
        """What an earlier process commanded and did not put away."""
        try:
            left = msgspec.json.decode(self._path.read_bytes(), type=list[Output])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as exc:
            logger.error("which outputs were on cannot be read: %s", exc)
            return []
        logger.warning("the agent did not end by itself: %d outputs go to their safe state", len(left))
        return left

    def forget(self) -> None:
        """All were put away."""
        self._path.unlink(missing_ok=True)
