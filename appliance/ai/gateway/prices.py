"""What tokens cost, in US dollars a million: as an upstream's owner says, else as the list of prices has it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.ai.gateway.names import Target, Upstream
from appliance.contracts import FlowError

logger = logging.getLogger(__name__)
_MILLION = 1e6


class Tier(Struct, frozen=True):
    """Prices from so many tokens of prompt on."""

    prompt: int
    input: float
    cached: float
    output: float


class Price(Struct, frozen=True):
    """A model's price. ``tiers`` rise; the first one begins at 0."""

    tiers: Sequence[Tier]

    def cost(self, tokens_in: int, cached: int, tokens_out: int) -> float:
        """US dollars of one answer."""
        tier = [each for each in self.tiers if each.prompt <= tokens_in][-1]
        fresh = max(0, tokens_in - cached)
        return (fresh * tier.input + cached * tier.cached + tokens_out * tier.output) / _MILLION


FREE = Price([Tier(0, 0.0, 0.0, 0.0)])


class Prices:
    """Looks each model up once. ``look_up(url, model)`` gives a :class:`Price` as JSON, or None for one unknown."""

    def __init__(self, look_up: Callable[[str, str], Awaitable[Any]]) -> None:
        self._look_up = look_up
        self._known: dict[tuple[str, str], Price | None] = {}

    async def of(self, target: Target) -> Price | None:
        """A model's price; None if nobody knows it. Those of this machine and of paired engines are free."""
        upstream = target.upstream
        if upstream.limits.price_in is not None or upstream.limits.price_out is not None:
            return _own(upstream)
        if not upstream.place or upstream.kind.builtin:
            return FREE
        key = (upstream.url, target.model)
        if key not in self._known:
            try:
                found = await self._look_up(*key)
                self._known[key] = None if found is None else msgspec.convert(found, Price)
            except (FlowError, msgspec.ValidationError) as exc:
                # Not remembered: it may be known the next time.
                logger.warning("the price of %s cannot be looked up: %s", target, exc)
                return None
        return self._known[key]


def _own(upstream: Upstream) -> Price:
    given, made = upstream.limits.price_in or 0.0, upstream.limits.price_out or 0.0
    return Price([Tier(0, given, given, made)])
