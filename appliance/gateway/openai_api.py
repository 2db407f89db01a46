"""The OpenAI API at ``/v1``: this engine's models, and those of its upstreams, for other programs.

Off until the owner turns the setting ``model_api`` on; then for engine tokens with the scope ``models``, and for people
who may run flows. Everything goes through the kernel's gateway, so accounts, budgets and limits hold. Source of the
forms: OpenAI's API reference. Errors are problem details as everywhere, with OpenAI's ``error`` in them.
"""

from __future__ import annotations

import base64
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from flask import Flask, Response, request

from appliance.contracts import ChatRequest
from appliance.gateway import bodies
from appliance.gateway.guard import allowed_somewhere
from appliance.gateway.identity import headers_of, remote_of
from appliance.gateway.openai_asks import PATIENCE, ChatBody, CompletionBody, EmbeddingsBody, Sampling, read
from appliance.gateway.patience import patiently
from appliance.gateway.problems import MEDIA, describe, encode, retry_after
from appliance.gateway.services import Gateway
from appliance.gateway.told import Told
from appliance.security.roles import Forbidden, Identity, Unauthorized
from appliance.store.errors import NotFound

PREFIX = "/v1"
PERMISSION = "models:use"
#: Seconds without a word after which a comment is sent, so that nobody in between takes the connection for dead.
QUIET = 10.0
_SPARE = 30.0
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          422: "invalid_request_error", 429: "rate_limit_error"}  # fmt: skip


class OpenAIApi:
    """The endpoints."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def init_app(self, app: Flask) -> None:
        """Add the endpoints to the application."""
        for method, path, work in (
            ("GET", "/models", self._models),
            ("POST", "/chat/completions", self._chat),
            ("POST", "/completions", self._complete),
            ("POST", "/embeddings", self._embed),
        ):
            name = f"openai{path.replace('/', '_')}"
            app.add_url_rule(PREFIX + path, endpoint=name, view_func=self._view(work), methods=[method])

    def _view(self, work: Callable[[str, bytes], Response]) -> Callable[[], Response]:
        def view() -> Response:
            try:
                who = self._who()
                body = bodies.read_body(request.environ, self._gateway.settings.max_request_bytes)
                return work(who, body)
            except Exception as exc:
                return self._refusal(exc)

        return view

    def _who(self) -> str:
        """Who calls, by the name under which the use is kept. Raises ``Unauthorized``, ``Forbidden``, ``NotFound``."""
        environ, callers = request.environ, self._gateway.callers

        def body() -> bytes:
            return bodies.read_body(environ, self._gateway.settings.max_request_bytes)

        identity: Identity = callers.identify(environ, headers_of(environ), body, websocket=False, public=False)
        callers.take(identity, remote_of(environ))
        if identity.kind == "anonymous":
            raise Unauthorized("send an engine token: Authorization: Bearer flw_…")
        if not allowed_somewhere(identity, PERMISSION):
            raise Forbidden(f"this needs {PERMISSION}: a token with the scope models")
        if not self._gateway.settings.model_api:
            raise NotFound("this engine's models are not served here; the setting model_api turns that on")
        return identity.name or identity.label

    def _refusal(self, exc: Exception) -> Response:
        problem = describe(exc, self._gateway.scrub)
        data = msgspec.json.decode(encode(problem))
        kind = _TYPES.get(problem.status, "api_error")
        code = problem.type.rpartition("#")[2]
        data["error"] = {"message": problem.detail, "type": kind, "param": None, "code": code}
        response = Response(msgspec.json.encode(data), problem.status, content_type=MEDIA)
        response.headers["Cache-Control"] = "no-store"
        if problem.status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="Flowork"'
        if problem.retry_after is not None:
            response.headers["Retry-After"] = retry_after(problem.retry_after)
        return response

    # --- endpoints -------------------------------------------------------------------------------------

    def _models(self, who: str, body: bytes) -> Response:
        found = self._gateway.call("model_list", 60.0)
        items = [
            {"id": model["name"] if one["local"] else f"{one['upstream']}/{model['name']}", "object": "model",
             "created": 0, "owned_by": one["upstream"]}
            for one in found
            for model in one.get("models", ())
        ]  # fmt: skip
        return _json({"object": "list", "data": items})

    def _chat(self, who: str, body: bytes) -> Response:
        asked = read(ChatBody, body)
        return self._answer(who, asked, asked.question())

    def _complete(self, who: str, body: bytes) -> Response:
        asked = read(CompletionBody, body)
        return self._answer(who, asked, asked.question())

    def _answer(self, who: str, asked: Sampling, question: ChatRequest) -> Response:
        form: Form = (Chat if question.prompt is None else Completion)(question.schema is not None)
        params = {"who": who, "request": msgspec.to_builtins(question)}
        if not asked.stream:
            return _json(form.whole(patiently(self._gateway, "model_chat", PATIENCE + _SPARE, **params)))
        with self._gateway.places.one() as keep:
            stream = self._gateway.kernel.stream("model_chat", stream=True, **params)
            try:
                items = stream.items(QUIET)
                # Until the first word an error has a status of its own.
                first: dict[str, Any] = next((item for item in items if item is not None), {})
            except BaseException:
                stream.close()
                raise
            keep()
        told = Told(stream, self._gateway.places, form.events(first, items, asked.usage_wanted), _broken_off)
        response = Response(told, content_type="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # for a proxy in between that would gather what is told
        return response

    def _embed(self, who: str, body: bytes) -> Response:
        asked = read(EmbeddingsBody, body)
        params = {"who": who, "texts": asked.texts(), "model": asked.model, "patience": PATIENCE}
        found = patiently(self._gateway, "model_embed", PATIENCE + _SPARE, **params)
        packed = asked.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(found["vectors"])
        ]
        usage = {"prompt_tokens": found["tokens"], "total_tokens": found["tokens"]}
        return _json({"object": "list", "data": data, "model": found["model"], "usage": usage})


class Form:
    """How OpenAI's API tells an answer."""

    kind = ""
    chunk = ""
    prefix = ""

    def __init__(self, whole: bool) -> None:
        """``whole``: show nothing before the answer is known to be good, for it may be asked for again."""
        self._hold = whole
        self._shown = False
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time())}

    def whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        """The answer in one piece."""
        choice = {"index": 0, "finish_reason": reply["finish"], "logprobs": None, **self._text(reply["text"])}
        return {"object": self.kind, **self._head, "model": _name(reply), "choices": [choice], "usage": _usage(reply)}

    def events(self, first: Mapping[str, Any], rest: Iterator[Any], usage: bool) -> Iterator[bytes]:
        """The answer as a stream of events, from the kernel's items."""
        yield from self._event(first, usage)
        if "reply" in first:
            return
        for item in rest:
            if item is None:
                yield b": it is still at work\n\n"
                continue
            yield from self._event(item, usage)
            if "reply" in item:
                return

    def _event(self, item: Mapping[str, Any], usage: bool) -> Iterator[bytes]:
        if "text" in item and not self._hold:
            self._shown = True
            yield _event(self._piece(self._delta(item["text"])))
        elif "reply" in item:
            if self._hold:
                yield _event(self._piece(self._delta(item["reply"]["text"])))
            yield _event(self._piece(self._delta(""), item["reply"]))
            if usage:
                yield _event({**self._piece(None, item["reply"]), "choices": [], "usage": _usage(item["reply"])})
            yield b"data: [DONE]\n\n"
        elif "anew" in item and self._shown:
            # A client of this API has no way to take back what it has read.
            raise ConnectionError("the model's answer broke off and would begin anew")

    def _piece(self, delta: dict[str, Any] | None, reply: Mapping[str, Any] | None = None) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": reply["finish"] if reply else None, **(delta or {})}
        model = {"model": _name(reply)} if reply else {}
        return {"object": self.chunk, **self._head, **model, "choices": [choice]}

    def _text(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _delta(self, text: str) -> dict[str, Any]:
        raise NotImplementedError


class Chat(Form):
    """``/v1/chat/completions``."""

    kind = "chat.completion"
    chunk = "chat.completion.chunk"
    prefix = "chatcmpl"

    def _text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


class Completion(Form):
    """``/v1/completions``."""

    kind = chunk = "text_completion"
    prefix = "cmpl"

    def _text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    _delta = _text


def _broken_off(exc: Exception) -> bytes:
    """The last event of an answer that nobody is to take for the whole."""
    return _event({"error": {"message": "the answer broke off", "type": "api_error", "code": "broken-off"}})


def _name(reply: Mapping[str, Any]) -> str:
    return str(reply["model"] if reply["provider"] == "local" else f"{reply['provider']}/{reply['model']}")


def _usage(reply: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt_tokens": reply["tokens_in"],
        "completion_tokens": reply["tokens_out"],
        "total_tokens": reply["tokens_in"] + reply["tokens_out"],
        "prompt_tokens_details": {"cached_tokens": reply["tokens_cached"]},
    }


def _packed(vector: list[float]) -> str:
    """Little-endian float32 in base64, as OpenAI's clients ask for it by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _json(value: Any) -> Response:
    response = Response(msgspec.json.encode(value), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
