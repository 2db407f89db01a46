"""Names of agents that commands are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def must_be_paired(name: str, agents: Iterable[Mapping[str, Any]]) -> None:
    """``agents`` as the kernel lists them. Raises ``NotFound``."""
    from appliance.fleet.book import unknown
    from appliance.store.errors import NotFound

    known = [agent["name"] for agent in agents if agent["name"]]
    if name not in known:
        raise NotFound(unknown(name, known))
