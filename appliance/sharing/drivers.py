"""Loads the drivers that only clusters need, and says which extra holds one that is missing."""

from __future__ import annotations

import importlib
from typing import Any

from appliance.contracts import ConfigError


def driver(name: str, extra: str) -> Any:
    """The module of a driver. Raises ``ConfigError`` with what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise ConfigError(
            f"a cluster needs the Python package {name}, which cannot be used here ({exc}); "
            f"install it with: pip install 'flowork[{extra}]'"
        ) from None
