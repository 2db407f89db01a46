"""Metrics for Prometheus."""

from __future__ import annotations

from appliance.gateway.exposition import MEDIA, exposition
from appliance.gateway.routing import Call, Nothing, Noun, Raw

noun = Noun("metrics", "Numbers for Prometheus, which sends an engine token with the scope `metrics:read`.")


@noun.get("/metrics", permission="metrics:read", anywhere=True, media=MEDIA.partition(";")[0])
def show(call: Call[Nothing, Nothing]) -> Raw:
    """The engine in numbers, in Prometheus' text format."""
    return Raw(exposition(call.gateway), MEDIA)
