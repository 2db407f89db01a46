"""The configuration as the appliance has last given it, on disk: an agent goes on from it while nobody answers."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.config import write_atomic
from edge_agent.protocol.messages import Watch

logger = logging.getLogger(__name__)

CONFIG = "config.json"


class Kept(Struct):
    """``dead_man`` in seconds; 0: never."""

    watches: list[Watch] = []
    dead_man: float = 0.0


def load(folder: Path) -> Kept:
    """What there is; nothing to do where it is missing or damaged."""
    try:
        return msgspec.json.decode((folder / CONFIG).read_bytes(), type=Kept)
    except FileNotFoundError:
        pass
    except (OSError, msgspec.DecodeError) as exc:
        logger.warning("the last configuration cannot be read, the appliance will give another: %s", exc)
    return Kept()


def save(folder: Path, kept: Kept) -> None:
    """For the next start. A disk that does not take it is logged."""
    try:
        write_atomic(folder / CONFIG, msgspec.json.encode(kept))
    except OSError as exc:
        logger.error("the configuration cannot be kept for the next start: %s", exc.strerror)
