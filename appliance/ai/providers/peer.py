"""The models of paired engines that let this one ask them, in their model hosts.

There is nothing to set up: a model that is not on this machine is asked of the least loaded peer that has it, and where
this machine has none at all, any model of a peer answers. `peer/NAME` asks a peer even so, `peer/laptop/NAME` a
certain one. What is sent goes to that engine and nowhere else.

    {}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from appliance.ai.providers._openai_api import named
from appliance.contracts import (
    Busy,
    ChatReply,
    ChatRequest,
    Config,
    ConfigError,
    Inference,
    ModelFacts,
    NodeError,
    Provider,
    Reach,
    Vectors,
)
from appliance.contracts.peers import PeerAway, PeerFailed, PeerNotAllowed

#: Seconds that vectors may take.
_EMBEDDING = 300.0
#: The same for a picture or a sound; whoever asks gives less.
_INFERENCE = 600.0
#: A status by which the gateway knows that the way to peers is well, only this one was not to be had.
_THIS_ONE = {"status": 404}


class PeerConfig(Config, frozen=True):
    """No settings: the pairing says what may be asked."""


class Peer(Provider[PeerConfig]):
    Config = PeerConfig
    title = "Paired engines"
    builtin = True

    def place(self, config: PeerConfig) -> str:
        return "a paired engine"

    async def chat(
        self, reach: Reach, config: PeerConfig, model: str, request: ChatRequest, on_text: Callable[[str], None]
    ) -> ChatReply:
        shown: list[str] = []

        def piece(item: Any) -> None:
            shown.append(str(item["text"]))
            on_text(shown[-1])

        body = {"request": msgspec.to_builtins(request)}
        found = await _first(reach, model, "model_chat", body, request.timeout, piece, lambda: bool(shown))
        reply: ChatReply = _shaped(found, ChatReply)
        said = "".join(shown)
        if len(said) < len(reply.text) and reply.text.startswith(said):
            on_text(reply.text[len(said) :])  # what the link was too slow for
        return reply

    async def embed(self, reach: Reach, config: PeerConfig, model: str, texts: Sequence[str]) -> Vectors:
        body = {"texts": list(texts)}
        found: Vectors = _shaped(await _first(reach, model, "model_embed", body, _EMBEDDING), Vectors)
        return found

    async def infer(
        self, reach: Reach, config: PeerConfig, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Inference:
        body = {"inputs": dict(inputs), "options": dict(options), "timeout": _INFERENCE}
        found: Inference = _shaped(await _first(reach, model, "model_infer", body, _INFERENCE), Inference)
        return found

    async def models(self, reach: Reach, config: PeerConfig) -> list[ModelFacts]:
        found: dict[str, ModelFacts] = {}
        for peer, facts in reach.peers.offered():
            found.setdefault(facts.name, msgspec.structs.replace(facts, place=peer))
        return list(found.values())


async def _first(
    reach: Reach,
    model: str,
    method: str,
    body: dict[str, Any],
    timeout: float,
    on_item: Callable[[Any], None] | None = None,
    begun: Callable[[], bool] = lambda: False,
) -> Any:
    """What the least loaded peer says that has the model; the next one, where that one is just not to be had."""
    candidates = _having(reach, model)
    for number, (peer, name) in enumerate(candidates, 1):
        try:
            return await reach.peers.ask(peer, method, {**body, "model": name}, timeout, on_item)
        except (PeerAway, PeerNotAllowed, Busy) as exc:
            if begun() or number == len(candidates):
                if isinstance(exc, Busy):
                    raise
                raise NodeError(f"{peer}: {exc.message}", retryable=exc.retryable, detail=_THIS_ONE) from None
        except PeerFailed as exc:
            failed = NodeError(f"at {peer}: {exc.message}", retryable=exc.retryable, detail=_THIS_ONE)
            raise named(failed, exc.error_id) from None
    raise AssertionError("unreachable")


def _having(reach: Reach, model: str) -> list[tuple[str, str]]:
    """The peers with this model, the least loaded first. Raises ``ConfigError`` if there is none."""
    offered = [(peer, facts.name) for peer, facts in reach.peers.offered()]
    wanted, _, name = model.partition("/")
    found = [each for each in offered if each[1] == model]
    found = found or [each for each in offered if name and each[0] == wanted and each[1] == name]
    if not found:
        there = ", ".join(sorted({f"{peer}/{each}" for peer, each in offered})) or "none"
        raise ConfigError(f"no paired engine offers the model {model!r} now; offered are: {there}")
    return found


def _shaped(found: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as exc:
        raise NodeError(f"a peer's answer cannot be read: {exc}") from None
