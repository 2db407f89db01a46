"""Short ways to write flows in tests."""

from __future__ import annotations

import itertools
from typing import Any


def node(node_id: str, kind: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A node."""
    return {"id": node_id, "type": kind, "config": config or {}, **more}


def compute(node_id: str, expression: str, **more: Any) -> dict[str, Any]:
    """A transform by expression."""
    return node(node_id, "transform", {"expression": expression}, **more)


def edges(*links: str) -> list[dict[str, str]]:
    """Edges from ``a>b`` or ``a>b>port``."""
    names = ("from", "to", "port")
    return [dict(zip(names, link.split(">"), strict=False)) for link in links]


def flow(*nodes: dict[str, Any], links: list[dict[str, str]] | None = None, **more: Any) -> dict[str, Any]:
    """A flow; without ``links`` its nodes follow each other."""
    if links is None:
        links = [{"from": one["id"], "to": two["id"]} for one, two in itertools.pairwise(nodes)]
    return {"name": "test", "nodes": list(nodes), "edges": links, **more}
