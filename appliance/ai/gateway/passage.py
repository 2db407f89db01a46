"""The way of one question to one target: budget, breaker, turn, limit of time; and the account behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from appliance.ai.gateway.accounts import Accounts, Use, Who
from appliance.ai.gateway.breaker import Breaker
from appliance.ai.gateway.lane import Lane
from appliance.ai.gateway.names import Target, Upstream, Upstreams
from appliance.ai.gateway.prices import Price, Prices
from appliance.contracts import Busy, ConfigError, FlowError, NodeError, TimedOut

#: Statuses that say that a server is not well, whatever it was asked. 529 is Anthropic's "overloaded".
_UNWELL = {500, 502, 503, 504, 529}
#: Seconds for which an upstream is left alone at most because it asked for that.
_LONGEST_PAUSE = 300.0


class Way(NamedTuple):
    """What is remembered of an upstream, as long as it is set up like that."""

    upstream: Upstream
    breaker: Breaker
    lane: Lane


class Meter:
    """What a question has used so far; guessed until the other side has told."""

    def __init__(self, tokens_in: int, price: Price | None) -> None:
        self._price = price
        self._tokens_in = tokens_in
        self._cached = 0
        self._out = 0.0
        #: Something of an answer has come.
        self.begun = False

    def piece(self, text: str) -> None:
        """A piece of the answer; about four bytes are a token."""
        self._out += len(text.encode(errors="replace")) / 4
        self.begun = True

    def told(self, tokens_in: int, cached: int = 0, tokens_out: int = 0) -> None:
        """What the other side counted."""
        self._tokens_in, self._cached, self._out, self.begun = tokens_in, cached, tokens_out, True

    @property
    def cost(self) -> float:
        """US dollars; 0 where nobody knows the price."""
        return self._price.cost(self._tokens_in, self._cached, self.tokens_out) if self._price else 0.0

    @property
    def tokens_out(self) -> int:
        return int(self._out + 0.999)

    @property
    def tokens(self) -> int:
        return self._tokens_in + self.tokens_out

    def use(self) -> Use:
        """The same for the account."""
        return Use(
            calls=1,
            tokens_in=self._tokens_in,
            tokens_cached=self._cached,
            tokens_out=self.tokens_out,
            cost=self.cost,
            unpriced=self.tokens if self._price is None else 0,
        )


class Passages:
    """All ways, kept over changes of the settings."""

    def __init__(self, accounts: Accounts, prices: Prices, clock: Callable[[], float] = time.monotonic) -> None:
        self.accounts = accounts
        self.prices = prices
        self._clock = clock
        self._ways: dict[str, Way] = {}

    def update(self, upstreams: Upstreams) -> None:
        """Forget what is not set up any more."""
        self._ways = {name: way for name, way in self._ways.items() if upstreams.known.get(name) == way.upstream}

    def view(self, upstream: str) -> str:
        """The state of an upstream's breaker."""
        way = self._ways.get(upstream)
        return "closed" if way is None else way.breaker.view(self._clock())

    def _way(self, upstream: Upstream) -> Way:
        way = self._ways.get(upstream.name)
        if way is None:
            name, limits = f"the upstream {upstream.name!r}", upstream.limits
            lane = Lane(
                name,
                at_once=limits.at_once,
                requests=limits.requests_minute,
                tokens=limits.tokens_minute,
                clock=self._clock,
            )
            way = self._ways[upstream.name] = Way(upstream, Breaker(name), lane)
        return way

    @asynccontextmanager
    async def through(
        self, who: Who, target: Target, tokens_in: int, most_out: int, timeout: float
    ) -> AsyncIterator[Meter]:
        """Ask within the block. Raises ``BudgetSpent``, ``Busy``, ``NodeError``, ``TimedOut`` besides its errors."""
        price = await self.prices.of(target)
        worst = price.cost(tokens_in, 0, most_out) if price else 0.0
        way, meter = self._way(target.upstream), Meter(tokens_in, price)
        began = self._clock()
        with self.accounts.held(who, target, worst, tokens_in + most_out):
            way.breaker.admit(began)
            try:
                async with limit(timeout, target), way.lane.turn(who.priority, timeout):
                    yield meter
            except BaseException as exc:
                self._judge(way, target, meter, exc)
                # What was begun is paid for, also if nobody has the answer.
                used = meter.use() if meter.begun else Use()
                used.failed, used.seconds = 1, self._clock() - began
                self.accounts.add(who, target, used)
                raise
            way.breaker.succeeded()
            way.lane.used(meter.tokens)
            used = meter.use()
            used.seconds = self._clock() - began
            self.accounts.add(who, target, used)

    def _judge(self, way: Way, target: Target, meter: Meter, exc: BaseException) -> None:
        """Whether what went wrong says that the upstream is not well."""
        detail = exc.detail if isinstance(exc, FlowError) and isinstance(exc.detail, Mapping) else {}
        status = detail.get("status")
        if isinstance(exc, Busy) and status is not None:
            if not target.upstream.kind.builtin:  # there one model's queue is full, others may be free
                way.lane.pause(min(exc.retry_after, _LONGEST_PAUSE))
            way.breaker.succeeded()
        elif isinstance(exc, ConfigError) or detail.get("refused"):
            way.breaker.succeeded()
        elif isinstance(exc, TimedOut):
            # A machine's own model may just be slow, and one that has begun to answer is alive.
            self._fail(way, str(exc), bool(target.upstream.place) and not meter.begun)
        elif isinstance(exc, NodeError):
            well = status is not None and (status not in _UNWELL or target.upstream.kind.builtin)
            self._fail(way, exc.message, not well)
        else:
            way.breaker.left()

    def _fail(self, way: Way, why: str, unwell: bool) -> None:
        if unwell:
            way.breaker.failed(self._clock(), why)
        else:
            way.breaker.left()


@asynccontextmanager
async def limit(seconds: float, target: Target) -> AsyncIterator[None]:
    """``asyncio.timeout`` that says what took too long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimedOut(f"{target} did not answer within {seconds:g} s") from None
