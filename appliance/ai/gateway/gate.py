"""One question's way: which models are tried in which order, within which bounds, and what is put to whose account.

Everything here runs on one asyncio loop, the engine's. A target that cannot be had (open breaker, spent budget, no
answer) is passed over for the next of the request's models; what all of them said is in the error.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from appliance.ai.gateway import answers
from appliance.ai.gateway.accounts import Use, Who
from appliance.ai.gateway.cache import Cache, key_of, key_of_text
from appliance.ai.gateway.names import LOCAL, PEER, Target, Upstreams
from appliance.ai.gateway.passage import Passages, limit
from appliance.contracts import (
    Busy,
    ChatReply,
    ChatRequest,
    ConfigError,
    FlowError,
    Inference,
    ModelFacts,
    NodeError,
    Reach,
    Vectors,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)

#: Seconds for which what an upstream has is believed, and that asking it may take.
LISTED_FOR = 30.0
LISTING = 20.0
LANGUAGE, EMBED = "language", "embed"
#: Any model that is run once on what it is given; it is always named, so what it is for does not matter.
ONNX = "onnx"
#: Characters of an answer that an error shows.
SHOWN = 2000
_SUMMED = ("tokens_in", "tokens_cached", "tokens_out", "seconds", "cost")
#: Times that a target is asked when the connection broke, in all.
TRIES = 2


class Watching(Protocol):
    """Those who see an answer as it is made."""

    def piece(self, text: str) -> None: ...
    def anew(self, why: str) -> None:
        """What came so far is void; ``why`` somebody is asked again, for people."""


class Gate:
    """Asks upstreams. ``reach(who)`` is what a provider receives."""

    def __init__(
        self,
        upstreams: Upstreams,
        default: Sequence[str],
        passages: Passages,
        cache: Cache,
        reach: Callable[[Who], Reach],
    ) -> None:
        self.upstreams = upstreams
        self.default = default
        self._passages = passages
        self._cache = cache
        self._reach = reach
        self._listed: dict[str, tuple[float, list[ModelFacts]]] = {}

    async def chat(self, who: Who, request: ChatRequest, watching: Watching) -> ChatReply:
        """The answer of the first target that gives one."""

        async def ask(target: Target) -> ChatReply:
            return await self._known_or_new(who, target, request, watching)

        return await self._first(request.models, self.default, LANGUAGE, ask, watching.anew)

    async def embed(self, who: Who, texts: Sequence[str], model: str, default: str, timeout: float) -> Vectors:
        """One vector of length 1 per text; those that are known are not asked for again."""

        async def ask(target: Target) -> Vectors:
            edition = self._edition(who, target)
            keys = [key_of_text(target, text, edition) for text in texts]
            found = {key: vector for key in keys if (vector := self._cache.vector(key)) is not None}
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
            tokens, cost = 0, 0.0
            if missing:
                new = await self._embed(who, target, list(missing.values()), timeout)
                tokens, cost = new.tokens, new.cost
                for key, vector in zip(missing, new.vectors, strict=True):
                    found[key] = _normed(vector, target)
                    self._cache.keep_vector(key, found[key])
            else:
                self._passages.accounts.add(who, target, Use(known=1))
            vectors = [found[key] for key in keys]
            provider = target.upstream.name
            return Vectors(vectors=vectors, model=target.model, provider=provider, tokens=tokens, cost=cost)

        return await self._first((model,), (default,) if default else (), EMBED, ask, lambda why: None)

    async def _embed(self, who: Who, target: Target, texts: list[str], timeout: float) -> Vectors:
        tokens = sum(guess(text) for text in texts)
        upstream = target.upstream
        async with self._passages.through(who, target, tokens, 0, timeout) as meter:
            found = await upstream.kind.embed(self._reach(who), upstream.config, target.model, texts)
            meter.told(found.tokens or tokens)
        return msgspec.structs.replace(found, cost=meter.cost)

    async def count(self, who: Who, text: str, model: str) -> int:
        """Tokens of a text; a guess where nobody here can tell."""
        target = await self._named(self.upstreams.target(self.upstreams.names((model,), self.default)[0]), LANGUAGE)
        config, kind = target.upstream.config, target.upstream.kind
        async with limit(LISTING, target):
            found = await kind.count(self._reach(who), config, target.model, text)
        return guess(text) if found is None else found

    async def infer(
        self, who: Who, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any], timeout: float
    ) -> Inference:
        """Run an ONNX model once."""
        target = self.upstreams.target(model)
        if not target.model:
            raise ConfigError("name the model")
        target = await self._named(target, ONNX)
        async with limit(timeout, target):
            found = await target.upstream.kind.infer(
                self._reach(who), target.upstream.config, target.model, inputs, options
            )
        return msgspec.structs.replace(found, provider=target.upstream.name)

    async def facts(self, who: Who, model: str) -> ModelFacts:
        """What is known of a model."""
        target = await self._named(self.upstreams.target(self.upstreams.names((model,), self.default)[0]), LANGUAGE)
        upstream = target.upstream
        for found in await self.models(target.upstream.name):
            if found.name == target.model:
                return found
        return ModelFacts(name=target.model, provider=upstream.name, place=upstream.place)

    async def models(self, upstream: str) -> list[ModelFacts]:
        """What an upstream has, asked at most twice a minute. Raises what asking raises."""
        known = self._listed.get(upstream)
        if known is not None and time.monotonic() - known[0] < LISTED_FOR:
            return known[1]
        target = Target(self.upstreams.known[upstream], "")
        async with limit(LISTING, target):
            found = await target.upstream.kind.models(self._reach(Who(flow=0, node="")), target.upstream.config)
        found = [msgspec.structs.replace(one, provider=upstream, place=target.upstream.place) for one in found]
        self._listed[upstream] = (time.monotonic(), found)
        return found

    # --- one after the other ---------------------------------------------------------------------------

    async def _first(
        self,
        names: Sequence[str],
        default: Sequence[str],
        task: str,
        ask: Callable[[Target], Awaitable[T]],
        anew: Callable[[str], None],
    ) -> T:
        """What the first target says that says something. Raises what the only one, or all of them, raised."""
        faults: list[tuple[str, FlowError]] = []
        for name in self.upstreams.names(names, default):
            if faults:
                before, exc = faults[-1]
                anew(f"{before} gave no answer, {name or 'the default'} is asked: {exc.message}")
            try:
                return await ask(await self._named(self.upstreams.target(name), task))
            except FlowError as exc:
                faults.append((name or "the default", exc))
                logger.info("the model %r gave no answer: %s", name, exc.message)
        raise _together(faults)

    async def _named(self, target: Target, task: str) -> Target:
        """The target with its model's name: where none was given, the upstream's first one for the task.

        What this machine does not have, a paired engine may.
        """
        if target.upstream.name == LOCAL and PEER in self.upstreams.known:
            target = await self._elsewhere(target, task)
        if target.model:
            return target
        found = [one for one in await self.models(target.upstream.name) if one.task in (task, "")]
        if not found:
            what = "that makes vectors" if task == EMBED else "that answers"
            where = "this machine" if target.upstream.kind.builtin else f"the upstream {target.upstream.name!r}"
            raise ConfigError(f"{where} has no model {what}; `flowork models pull` fetches one")
        return Target(target.upstream, found[0].name)

    async def _elsewhere(self, target: Target, task: str) -> Target:
        """The same at a peer, if only a peer has it."""
        offered = [facts for _, facts in self._reach(Who(flow=0, node="")).peers.offered()]
        if not offered:
            return target
        own = await self.models(LOCAL)
        if target.model:
            missing = all(one.name != target.model for one in own)
            found = [one for one in offered if one.name == target.model]
        else:
            missing = not any(one.task in (task, "") for one in own)
            found = [one for one in offered if one.task in (task, "")]
        return Target(self.upstreams.known[PEER], found[0].name) if missing and found else target

    # --- one target ------------------------------------------------------------------------------------

    async def _known_or_new(self, who: Who, target: Target, request: ChatRequest, watching: Watching) -> ChatReply:
        """The answer that is known, or a new one."""
        key = key_of(target, request, self._edition(who, target))
        if key is not None and (known := self._cache.answer(key)) is not None:
            self._passages.accounts.add(who, target, Use(known=1))
            watching.piece(known.text)
            return known
        reply = await self._fitting(who, target, request, watching)
        if key is not None:
            self._cache.keep_answer(key, reply)
        return reply

    def _edition(self, who: Who, target: Target) -> str:
        """What tells this model from another of its name; of models elsewhere nobody can tell."""
        return self._reach(who).edition(target.model) if target.upstream.name == LOCAL else ""

    async def _fitting(self, who: Who, target: Target, request: ChatRequest, watching: Watching) -> ChatReply:
        """An answer, which fits the schema if there is one. All that was asked for it is in its figures."""
        if request.schema is None:
            return await self._persistent(who, target, request, watching)
        fault, replies = "", list[ChatReply]()
        for attempt in range(answers.TRIES):
            if attempt:
                watching.anew(f"{target} is asked again, its answer did not fit the schema: {fault}")
            reply = await self._persistent(who, target, request, watching)
            replies.append(reply)
            try:
                return _added(replies, answers.value_of(reply.text, request.schema))
            except answers.Unfit as exc:
                fault = str(exc)
            if reply.finish == "length":
                message = f"the answer of {target} was cut at {request.max_tokens} tokens, before its JSON was whole"
                raise _unusable(
                    f"{message}; raise max_tokens",
                    f"it was cut off at {request.max_tokens} tokens; be shorter",
                    replies,
                )
            more = answers.ask_again(reply.text, fault, request.schema)
            request = msgspec.structs.replace(request, messages=[*request.messages, *more])
        message = f"{target} answered {answers.TRIES} times with what does not fit the schema; at last: {fault}"
        raise _unusable(message, fault, replies)

    async def _persistent(self, who: Who, target: Target, request: ChatRequest, watching: Watching) -> ChatReply:
        """An answer, over a connection that may break once (a host that was killed is started anew)."""
        for attempt in range(1, TRIES + 1):
            try:
                return await self._ask(who, target, request, watching)
            except NodeError as exc:
                broke = isinstance(exc.detail, Mapping) and "status" not in exc.detail and "sent" in exc.detail
                if not (broke and exc.retryable) or attempt == TRIES:
                    raise
                watching.anew(f"{target} is asked again: {exc.message}")
        raise AssertionError("unreachable")

    async def _ask(self, who: Who, target: Target, request: ChatRequest, watching: Watching) -> ChatReply:
        upstream = target.upstream
        tokens = guess(request.prompt or msgspec.json.encode(request.messages).decode())
        through = self._passages.through(who, target, tokens, request.max_tokens, request.timeout)
        async with through as meter:

            def piece(text: str) -> None:
                meter.piece(text)
                watching.piece(text)

            reply = await upstream.kind.chat(self._reach(who), upstream.config, target.model, request, piece)
            meter.told(reply.tokens_in, reply.tokens_cached, reply.tokens_out)
        return msgspec.structs.replace(reply, provider=upstream.name, model=target.model, cost=meter.cost)


def guess(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes, at least one."""
    return max(1, len(text.encode(errors="replace")) // 4)


def _unusable(message: str, fault: str, replies: Sequence[ChatReply]) -> NodeError:
    """The error of answers that are of no use. It tells of the last one, of its fault, and of what all of them took."""
    last = _added(replies, None)
    told = {name: getattr(last, name) for name in ("model", "tokens_in", "tokens_out", "cost")}
    return NodeError(message, retryable=False, detail={"text": last.text[:SHOWN], "fault": fault, **told})


def _added(replies: Sequence[ChatReply], data: Any) -> ChatReply:
    """The last answer, with what all of them took."""
    sums = {name: sum(getattr(reply, name) for reply in replies) for name in _SUMMED}
    return msgspec.structs.replace(replies[-1], data=data, first=replies[0].first, **sums)


def _normed(vector: Sequence[float], target: Target) -> list[float]:
    """The vector with length 1. Raises ``NodeError`` for one that has no direction."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not length or not math.isfinite(length):
        raise NodeError(f"{target} gave a vector without a direction", retryable=False)
    return [value / length for value in vector]


def _together(faults: Sequence[tuple[str, FlowError]]) -> FlowError:
    """One error for all: that of the only one, else what each said, with the ids of their errors in its detail."""
    if len(faults) == 1:
        return faults[0][1]
    errors = [exc for _, exc in faults]
    message = "no model answered: " + "; ".join(f"{name}: {exc.message}" for name, exc in faults)
    retryable = [exc for exc in errors if exc.retryable]
    waits = [exc.retry_after for exc in retryable if isinstance(exc, Busy)]
    if retryable and len(waits) == len(retryable):
        busy = Busy(message, min(waits))
        busy.detail = {"retry_after": busy.retry_after}
        return busy
    told = [{"model": name, "error": exc.id, "message": exc.message} for name, exc in faults]
    return NodeError(message, retryable=bool(retryable), detail={"models": told})
