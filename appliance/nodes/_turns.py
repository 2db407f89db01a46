"""Asking a model again and again in one step: what it has used, and a question that failed and is asked again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from appliance.contracts import Busy, ChatReply, Context, FlowError, NodeError, Park

_LONGEST_PAUSE = 60.0
#: The share of a step's time that a question gets: the step is still there then, to ask again.
EARLIER = 0.9


class Spent(Struct):
    """What a step's turns have used so far; kept in its memo. ``tries`` counts those of the turn that is due."""

    turns: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    model: str = ""
    tries: int = 0

    def add(self, reply: ChatReply) -> None:
        """One turn more."""
        self.tries = 0
        self.pay(reply)

    def pay(self, reply: ChatReply) -> None:
        """One question more, whatever its answer is good for."""
        self.turns += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.cost += reply.cost
        self.model = reply.model

    def view(self) -> dict[str, Any]:
        """For the step's output."""
        return {
            "turns": self.turns,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": round(self.cost, 6),
            "model": self.model,
        }


def asked_again(ctx: Context, spent: Spent, attempts: int, exc: FlowError, memo: Callable[[], Any]) -> Park:
    """Wait before a turn that failed is tried again, with all that was had so far. Raises what will not go away.

    The step itself is not tried again from its beginning: what was paid for and done would be once more.
    """
    spent.tries += 1
    if not exc.retryable or spent.tries >= attempts:
        raise NodeError(exc.message, retryable=False, detail=exc.detail) from exc
    pause = min(2.0**spent.tries, _LONGEST_PAUSE)
    if isinstance(exc, Busy):
        pause = max(pause, min(exc.retry_after, _LONGEST_PAUSE))
    ctx.log(f"the model did not answer ({exc.message}); it is asked again in {pause:g} s", "warning")
    return Park(until=ctx.now() + pause, memo=memo())


def unusable(exc: FlowError) -> tuple[ChatReply, str] | None:
    """The answer that an error tells of, and what is wrong with it: the model did answer, and has to be told."""
    told = exc.detail
    if not isinstance(told, Mapping) or "fault" not in told:
        return None
    reply = ChatReply(
        text=told["text"],
        model=told["model"],
        provider="",
        tokens_in=told["tokens_in"],
        tokens_out=told["tokens_out"],
        cost=told["cost"],
    )
    return reply, told["fault"]


def refuse_anew(ctx: Context) -> None:
    """Raises ``NodeError`` where the flow's ``retry`` begins a step anew that has a memo of its own."""
    if ctx.attempt > 1:
        message = "what has used tools or money is not begun anew by `retry`; `attempts` tries a turn that failed again"
        raise NodeError(message, retryable=False)
