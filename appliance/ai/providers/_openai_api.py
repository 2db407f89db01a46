"""The client's side of the OpenAI API, as far as its many servers agree on it.

Source: OpenAI's API reference (chat completions, embeddings, models), and what Ollama, vLLM, llama.cpp and Gemini's
compatible endpoint were seen to answer where they differ from it.
"""

from __future__ import annotations

import base64
import email.utils
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import (
    Blobs,
    Busy,
    ChatReply,
    ChatRequest,
    ConfigError,
    FlowError,
    HttpStream,
    NodeError,
    StreamingHttp,
    Vectors,
)

#: Characters of the other side's own words that an error shows.
_EXCERPT = 300
#: Seconds to wait after a 429 that does not say how long.
_PAUSE = 5.0
#: Errors of a model host that a step keeps by their ids, which docs/errors.md explains under Models.
OF_MODELS = frozenset({"no-model", "no-model-engine", "model-unusable", "model-too-large", "model-host-away"})
#: Texts of one request for vectors; more are sent one request after the other.
_BATCH = 64


class Unwanted(ConfigError):
    """The server does not know a parameter; ``name`` says which."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class Api(Struct, frozen=True, kw_only=True):
    """One server: its base URL (ends in ``/v1`` mostly), what it is called in errors, and how it is reached."""

    http: StreamingHttp
    url: str
    name: str
    headers: Mapping[str, str] = {}
    socket: Path | None = None
    verify: bool = True

    async def ask(self, path: str, body: Any) -> Any:
        """POST (or GET without a body) and the answer's JSON."""
        async with self.open(path, None if body is None else msgspec.json.encode(body)) as stream:
            await self.fail_unless_ok(stream)
            return self.decode(await stream.read())

    def open(
        self, path: str, body: bytes | None, kind: str = "application/json"
    ) -> AbstractAsyncContextManager[HttpStream]:
        """The stream of an answer."""
        headers = self.headers if body is None else {"Content-Type": kind, **self.headers}
        return self.http.open(
            "GET" if body is None else "POST",
            self.url.rstrip("/") + path,
            headers=headers,
            body=body,
            socket=self.socket,
            called=self.name if self.socket else "",
            verify=self.verify,
        )

    def decode(self, data: bytes | str) -> Any:
        """JSON of the server. Raises ``NodeError`` for what is none."""
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise NodeError(f"{self.name} sent what is not JSON: {exc}") from None

    async def fail_unless_ok(self, stream: HttpStream) -> None:
        """Raise what an error status means."""
        if stream.status != 200:
            raise self.error_of(stream.status, await stream.read(65_536), stream.headers)

    def error_of(self, status: int, body: bytes, headers: Mapping[str, str]) -> FlowError:
        """The error of a status and its body. What this machine's own host says keeps its id."""
        told = told_of(body)
        return self._named(self._meant(status, told, body, headers), told)

    def broken_off(self, told: Told) -> FlowError:
        """The error that ends an answer in the middle."""
        message = f"{self.name} broke off: {told.message or 'without a word'}"
        return self._named(NodeError(message, retryable=told.retryable, detail={"sent": True}), told)

    def _named(self, exc: FlowError, told: Told) -> FlowError:
        return named(exc, told.code) if self.socket is not None else exc

    def _meant(self, status: int, told: Told, body: bytes, headers: Mapping[str, str]) -> FlowError:
        """What a status means for whoever asked."""
        words = told.message or body[:_EXCERPT].decode(errors="replace").strip() or "without a word"
        # The words of this machine's own host are ours, and say all by themselves.
        own = self.socket is not None and told.message
        message = told.message if own else f"{self.name} answered {status}: {words}"
        detail: dict[str, Any] = {"status": status, "sent": True}
        if status in (401, 403):
            return NodeError(message, retryable=False, detail={**detail, "refused": True})
        if status == 402 or told.code == "insufficient_quota":
            return NodeError(message, retryable=False, detail={**detail, "refused": True})
        wait = retry_after(headers)
        if status == 429:
            busy = Busy(message, _PAUSE if wait is None else wait)
            busy.detail = {**detail, "retry_after": busy.retry_after}
            return busy
        if status == 408 or status >= 500:
            later = detail if wait is None else {**detail, "retry_after": wait}
            return NodeError(message, retryable=told.retryable, detail=later)
        if status == 400 and told.param:
            return Unwanted(message, told.param)
        if 400 <= status < 500:
            return ConfigError(message, detail={**detail, "refused": True})
        return NodeError(f"{message}; this is not the address of such an API", retryable=False, detail=detail)

    # --- what is asked ---------------------------------------------------------------------------------

    async def chat(
        self, model: str, request: ChatRequest, body: Mapping[str, Any], on_text: Callable[[str], None]
    ) -> ChatReply:
        """One answer as it comes. ``body`` is what :func:`chat_body` made, perhaps changed."""
        began = time.monotonic()
        path = "/chat/completions" if request.prompt is None else "/completions"
        async with self.open(path, msgspec.json.encode({**body, "model": model})) as stream:
            await self.fail_unless_ok(stream)
            answer = _Answer(self, began, on_text)
            if "event-stream" in stream.headers.get("content-type", ""):
                async for line in stream.lines():
                    if answer.take(line):
                        break
            else:
                answer.whole(self.decode(await stream.read()))
            return answer.reply(model, request)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """One vector per text."""
        vectors: list[list[float]] = []
        tokens = 0
        for start in range(0, len(texts), _BATCH):
            part = list(texts[start : start + _BATCH])
            body = {"model": model, "input": part, "encoding_format": "float"}
            found = self.shaped(await self.ask("/embeddings", body), _Embedded)
            if len(found.data) != len(part):
                raise NodeError(f"{self.name} sent {len(found.data)} vectors for {len(part)} texts")
            vectors += [one.embedding for one in sorted(found.data, key=lambda one: one.index)]
            tokens += found.usage.prompt_tokens or sum(guess(text) for text in part)
        return Vectors(vectors=vectors, model=model, provider="", tokens=tokens)

    def shaped(self, value: Any, kind: type[Any]) -> Any:
        """JSON as a struct. Raises ``NodeError``."""
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            raise NodeError(f"{self.name} did not answer as the OpenAI API does: {exc}") from None


def named(exc: FlowError, error_id: str) -> FlowError:
    """The error under the id that a model host gave it, if that is one of ``OF_MODELS``."""
    if error_id in OF_MODELS:
        exc.id = error_id  # type: ignore[misc]  # its class says only what is to be done about it
    return exc


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Vector(Struct):
    embedding: list[float]
    index: int = 0


class _Embedded(Struct):
    data: list[_Vector]
    usage: _Usage = msgspec.field(default_factory=_Usage)


class _Part(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    text: str | None = None
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Answer:
    """An answer while it comes."""

    def __init__(self, api: Api, began: float, on_text: Callable[[str], None]) -> None:
        self._api = api
        self._began = began
        self._on_text = on_text
        self._pieces: list[str] = []
        self._refusal = ""
        self._finish = ""
        self._first = 0.0
        self._usage = _Usage()

    def take(self, line: str) -> bool:
        """A line of the event stream (WHATWG HTML, 9.2); True behind the last one."""
        if not line.startswith("data:"):
            return False
        data = line[5:].strip()
        if data == "[DONE]":
            return True
        self._chunk(self._api.shaped(self._api.decode(data), _Chunk))
        return False

    def whole(self, answer: Any) -> None:
        """An answer in one piece, of a server that does not stream."""
        self._chunk(self._api.shaped(answer, _Chunk))

    def _chunk(self, chunk: _Chunk) -> None:
        if chunk.error is not None:
            told = told_of(msgspec.json.encode({"error": chunk.error}))
            raise self._api.broken_off(told)
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices[:1]:
            part = choice.delta or choice.message or _Part(choice.text)
            if part.content:
                self._first = self._first or time.monotonic() - self._began
                self._pieces.append(part.content)
                self._on_text(part.content)
            self._refusal += part.refusal or ""
            self._finish = choice.finish_reason or self._finish

    def reply(self, model: str, request: ChatRequest) -> ChatReply:
        """The whole answer. Raises ``NodeError`` for one that was cut off."""
        if self._refusal or self._finish == "content_filter":
            words = self._refusal or "its content filter has withheld the answer"
            raise NodeError(f"{self._api.name} refuses: {words}", retryable=False, detail={"refused": True})
        if not self._finish:
            raise NodeError(f"{self._api.name} broke off in the middle of its answer", detail={"sent": True})
        text, usage = "".join(self._pieces), self._usage
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        return ChatReply(
            text=text,
            model=model,
            provider="",
            finish="length" if self._finish == "length" else "stop",
            tokens_in=usage.prompt_tokens or guess(request.prompt or "".join(map(_text_of, request.messages))),
            tokens_cached=cached or 0,
            tokens_out=usage.completion_tokens or guess(text),
            seconds=time.monotonic() - self._began,
            first=self._first,
        )


def chat_body(request: ChatRequest, blobs: Blobs) -> dict[str, Any]:
    """The body of ``/chat/completions``, or of ``/completions`` for a bare prompt, without its model."""
    if request.prompt is None:
        asked: dict[str, Any] = {"messages": [_message(message, blobs) for message in request.messages]}
    else:
        asked = {"prompt": request.prompt}
    body: dict[str, Any] = {
        **asked,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if request.schema is not None:
        form = {"name": "answer", "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def has_images(request: ChatRequest) -> bool:
    """Whether a message holds a picture."""
    return any(
        isinstance(part, Mapping) and part.get("type") in ("image", "image_url")
        for message in request.messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def _message(message: Mapping[str, Any], blobs: Blobs) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": [_part(part, blobs) for part in content]}


def _part(part: Any, blobs: Blobs) -> Any:
    """A picture from a blob as a ``data:`` URL; anything else as it is."""
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    reference = part.get("image")
    if not isinstance(reference, Mapping):
        raise ConfigError("a picture must be the reference of a blob")
    data = base64.b64encode(blobs.get(reference)).decode()
    mime = str(reference.get("type") or "image/jpeg")
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}}


def guess(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes, at least one."""
    return max(1, len(text.encode(errors="replace")) // 4)


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if isinstance(part, Mapping))


class Told(Struct):
    message: str = ""
    code: str = ""
    param: str = ""
    retryable: bool | None = None


def told_of(body: bytes) -> Told:
    """What an error's body says, in any of the forms that are about."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Told()
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, dict):
        return Told()
    error = found.get("error", found)
    if isinstance(error, str):
        return Told(error[:_EXCERPT])
    if not isinstance(error, dict):
        return Told()
    message = error.get("message") or error.get("detail") or error.get("title") or ""
    return Told(str(message)[:_EXCERPT], str(error.get("code") or ""), str(error.get("param") or ""), _flag(error))


def _flag(error: Mapping[str, Any]) -> bool | None:
    """Our own hosts say whether it may succeed later."""
    flag = error.get("flowork_retryable")
    return flag if isinstance(flag, bool) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by RFC 9110 section 10.2.3, given as seconds or as a date."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, min(float(value), 86_400.0))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
