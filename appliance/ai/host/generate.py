"""Chat and completion: from a caller's request to a model's thread and back, whole or piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from appliance.ai.host.asks import ChatBody, CompletionBody
from appliance.ai.host.http import Reply
from appliance.ai.host.work import Answer, Ask, Language
from appliance.contracts import NodeError


class Inbox:
    """What a model's thread has said, for the event loop to take."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._said: list[str | Answer | Exception] = []
        self._arrived = asyncio.Event()

    def text(self, text: str) -> None:
        """On the model's thread."""
        self._loop.call_soon_threadsafe(self._put, text)

    def end(self, answer: Answer | None, error: Exception | None) -> None:
        """On the model's thread."""
        said = answer or error or NodeError("the model ended without an answer")
        self._loop.call_soon_threadsafe(self._put, said)

    def _put(self, said: str | Answer | Exception) -> None:
        self._said.append(said)
        self._arrived.set()

    async def take(self) -> tuple[str, Answer | None]:
        """All text that has come since, together, and the answer if that was the end. Raises the model's error."""
        await self._arrived.wait()
        self._arrived.clear()
        said, self._said = self._said, []
        text = "".join(one for one in said if isinstance(one, str))
        if isinstance(said[-1], Exception):
            raise said[-1]
        return text, None if isinstance(said[-1], str) else said[-1]


async def pieces(language: Language, ask: Ask) -> AsyncGenerator[tuple[str, Answer | None]]:
    """The answer's text as it is made; the ``Answer`` with the last piece. Left early, the work is cancelled.

    Raises what the model raises.
    """
    inbox = Inbox()
    if any(isinstance(message.get("content"), list) for message in ask.messages):
        # A large picture takes a while to be read, and others wait for the loop.
        ticket = await asyncio.to_thread(language.submit, ask, inbox.text, inbox.end)
    else:
        ticket = language.submit(ask, inbox.text, inbox.end)
    try:
        answer = None
        while answer is None:
            text, answer = await inbox.take()
            yield text, answer
    finally:
        ticket.cancel()


class Form:
    """How OpenAI's API says it: ids, names, the place of the text."""

    kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, number: str) -> None:
        self._head = {"id": f"{self.prefix}-{number}", "created": int(time.time()), "model": model}

    def whole(self, answer: Answer) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": answer.finish, "logprobs": None, **self._text(answer.text)}
        return {"object": self.kind, **self._head, "choices": [choice], "usage": _usage(answer), **_times(answer)}

    def piece(self, text: str | None, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": finish, **self._delta(text)}
        return {"object": self._chunk(), **self._head, "choices": [choice]}

    def last(self, answer: Answer) -> dict[str, Any]:
        return {"object": self._chunk(), **self._head, "choices": [], "usage": _usage(answer), **_times(answer)}

    def first(self) -> list[dict[str, Any]]:
        """What a stream begins with, before the first token."""
        return []

    def _chunk(self) -> str:
        return self.kind

    def _text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}


class ChatForm(Form):
    """``/v1/chat/completions``."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def first(self) -> list[dict[str, Any]]:
        choice = {"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": ""}}
        return [{"object": self._chunk(), **self._head, "choices": [choice]}]

    def _chunk(self) -> str:
        return "chat.completion.chunk"

    def _text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def _delta(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}


class CompletionForm(Form):
    """``/v1/completions``."""

    kind = "text_completion"
    prefix = "cmpl"


async def answer(language: Language, body: ChatBody | CompletionBody, number: str, reply: Reply) -> Answer:
    """Answer one request; how it ended."""
    form = (ChatForm if isinstance(body, ChatBody) else CompletionForm)(body.model, number)
    ended: Answer | None = None
    async with aclosing(pieces(language, body.ask())) as made:
        async for text, answered in made:
            ended = answered
            if body.stream and text:
                await _begun(form, reply)
                await reply.events(form.piece(text))
    assert ended is not None, "the last piece brings the answer"
    if body.stream:
        await _begun(form, reply)
        usage = [form.last(ended)] if body.usage_wanted() else []
        await reply.events(form.piece(None, ended.finish), *usage, "[DONE]")
        await reply.end()
    else:
        await reply.send(form.whole(ended))
    return ended


async def _begun(form: Form, reply: Reply) -> None:
    """A stream begins with its first token: until then an error has a status of its own."""
    if not reply.begun:
        await reply.begin()
        if first := form.first():
            await reply.events(*first)


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.tokens_in,
        "completion_tokens": answer.tokens_out,
        "total_tokens": answer.tokens_in + answer.tokens_out,
        "prompt_tokens_details": {"cached_tokens": answer.tokens_cached},
    }


def _times(answer: Answer) -> dict[str, Any]:
    return {"flowork_seconds": {"began": answer.began, "first": answer.first, "whole": answer.seconds}}
