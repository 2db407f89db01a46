"""Models that say what a test has written down, in place of ``ctx.models``; everything they were asked is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from appliance.contracts import ChatReply, ChatRequest, ConfigError, FlowError, ModelFacts, Vectors

#: What is said: text, a JSON value, an error to raise, a whole reply, or a function of the question that gives one.
Said = Any


class Scripted:
    """Says one entry of the script a turn, then the last one for ever."""

    def __init__(self, *script: Said, context: int = 4096, place: str = "", cost: float = 0.0) -> None:
        self.script = list(script)
        self.asked: list[ChatRequest] = []
        self.counted: list[str] = []
        self.context = context
        self.place = place
        self.cost = cost

    async def chat(self, request: ChatRequest, on_text: Callable[[str], None] | None = None) -> ChatReply:
        said = self.script[min(len(self.asked), len(self.script) - 1)]
        self.asked.append(request)
        if callable(said):
            said = said(request)
        if isinstance(said, FlowError):
            raise said
        if isinstance(said, ChatReply):
            return said
        text = said if isinstance(said, str) else json.dumps(said)
        if on_text is not None:
            for start in range(0, len(text), 3):
                on_text(text[start : start + 3])
        return ChatReply(
            text=text,
            data=None if isinstance(said, str) else said,
            model=request.models[0] if request.models else "scripted",
            provider="test",
            tokens_in=sum(len(str(message["content"])) for message in request.messages) // 4,
            tokens_out=len(text) // 4,
            cost=self.cost,
        )

    async def embed(self, texts: Sequence[str], model: str = "", timeout: float = 60.0) -> Vectors:
        raise ConfigError("no model for embeddings is chosen")

    async def count(self, text: str, model: str = "") -> int:
        self.counted.append(text)
        return -(-len(text.encode()) // 4)

    async def facts(self, model: str = "") -> ModelFacts:
        return ModelFacts(name=model or "scripted", provider="test", place=self.place, context=self.context)

    async def infer(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("nothing here runs an ONNX model")


def use(tool: str, **arguments: Any) -> dict[str, Any]:
    """A call."""
    return {"tool": tool, "arguments": arguments}


def several(*calls: dict[str, Any]) -> dict[str, Any]:
    """Several calls in one turn."""
    return {"calls": list(calls)}


def answer(value: Any) -> dict[str, Any]:
    """The final answer."""
    return {"answer": value}
