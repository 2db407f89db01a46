"""The catalog: which nodes and triggers there are, with their forms and their help."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from appliance.gateway.routing import Call, Nothing, Noun

noun = Noun("catalog", "The kinds of nodes and triggers that are installed: what palette, forms and help are made of.")


class Catalog(Struct, frozen=True):
    """Kinds with title, help, ports, effect and the JSON Schema of their config; ``broken`` ones with the reason."""

    nodes: list[dict[str, Any]]
    triggers: list[dict[str, Any]]
    broken: list[dict[str, Any]]


@noun.get("/catalog", permission="catalog:read", anywhere=True, etag=True)
def show(call: Call[Nothing, Nothing]) -> Catalog:
    """All kinds of nodes and triggers."""
    return Catalog(**call.gateway.registry.catalog())
