"""A scripted OpenAI-compatible server over real HTTP, with the faults that such servers have.

    with cloud() as server:
        server.say("Hello, gardener.")                  # the next answer, streamed word by word
        server.fail(429, retry_after=7)                 # then a refusal
        server.cut("Hello, gard")                       # then one that breaks off in the middle
        ... server.url ... server.bodies[0]["messages"]

What is asked for beyond the script is answered with ``server.fallback``.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.web import WebServer, _Handler, web_server

Script = Callable[["_Handler"], None]
CHAT, EMBED, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
COMPLETE = "/v1/completions"


class Cloud:
    """The server that :func:`cloud` yields."""

    def __init__(self, web: WebServer) -> None:
        self.web = web
        self.url = web.url("/v1")
        self.fallback = "yes"
        self.models = ["small", "large"]
        self.images_seen = 0
        #: Held answers go on when this is set.
        self.go = threading.Event()
        self._script: deque[Script] = deque()
        web.answer(CHAT, on=self._chat)
        web.answer(COMPLETE, on=self._complete)
        web.answer(EMBED, on=self._embed)
        web.answer(MODELS, on=self._list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was asked for, in order."""
        return [json.loads(seen.body) for seen in self.web.requests if seen.body]

    def keys(self) -> list[str]:
        """The keys that were shown."""
        return [seen.headers.get("authorization", "") for seen in self.web.requests]

    # --- the script ------------------------------------------------------------------------------------

    def say(self, text: str, *, finish: str = "stop", cached: int = 0, usage: bool = True) -> None:
        """Answer with a text."""
        self._script.append(lambda handler: self._stream(handler, text, finish, cached, usage))

    def say_whole(self, text: str) -> None:
        """Answer in one piece, as servers do that do not stream."""
        answer = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        self._script.append(lambda handler: _json(handler, 200, answer))

    def fail(self, status: int, message: str = "no", *, retry_after: float | None = None, **error: Any) -> None:
        """Answer with an error status."""
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        body = {"error": {"message": message, **error}}
        self._script.append(lambda handler: _json(handler, status, body, headers))

    def cut(self, text: str) -> None:
        """Break the connection off behind a part of the answer."""

        def script(handler: _Handler) -> None:
            _begin(handler)
            for word in _words(text):
                _event(handler, {"choices": [{"delta": {"content": word}}]})
            handler.close_connection = True
            handler.connection.shutdown(2)

        self._script.append(script)

    def stop_short(self, text: str) -> None:
        """End the stream properly, but without saying that the answer is over."""

        def script(handler: _Handler) -> None:
            _begin(handler)
            _event(handler, {"choices": [{"delta": {"content": text}}]})
            _end(handler)

        self._script.append(script)

    def break_down(self, text: str, message: str) -> None:
        """Tell of an error in the middle of the stream."""

        def script(handler: _Handler) -> None:
            _begin(handler)
            _event(handler, {"choices": [{"delta": {"content": text}}]})
            _event(handler, {"error": {"message": message}})
            _end(handler)

        self._script.append(script)

    def garbage(self, body: bytes = b"<html>Bad gateway</html>") -> None:
        """Answer 200 with what is not JSON."""
        self._script.append(lambda handler: handler.reply(200, {"Content-Type": "application/json"}, body))

    def hang(self) -> None:
        """Answer nothing until the caller hangs up."""
        self._script.append(lambda handler: handler.wait_for_hang_up())

    def begin_and_hang(self, text: str) -> None:
        """Send a part of the answer, then nothing until the caller hangs up."""

        def script(handler: _Handler) -> None:
            _begin(handler)
            _event(handler, {"choices": [{"delta": {"content": text}}]})
            handler.wait_for_hang_up()

        self._script.append(script)

    def hold(self, first: str, rest: str) -> None:
        """Send a part of the answer, and the rest when ``go`` is set."""

        def script(handler: _Handler) -> None:
            _begin(handler)
            _event(handler, {"choices": [{"delta": {"content": first}}]})
            assert self.go.wait(20)
            _event(handler, {"choices": [{"delta": {"content": rest}, "finish_reason": "stop"}]})
            _end(handler)

        self._script.append(script)

    # --- answering -------------------------------------------------------------------------------------

    def _chat(self, handler: _Handler) -> None:
        try:
            script = self._script.popleft()
        except IndexError:
            self._stream(handler, self.fallback, "stop", 0, True)
        else:
            script(handler)

    def _stream(self, handler: _Handler, text: str, finish: str, cached: int, usage: bool) -> None:
        body = json.loads(self.web.requests[-1].body)
        _begin(handler)
        for word in _words(text):
            _event(handler, {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        _event(handler, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if usage and body.get("stream_options", {}).get("include_usage"):
            asked = sum(len(json.dumps(message)) for message in body["messages"])
            counted = {
                "prompt_tokens": asked,
                "completion_tokens": len(_words(text)),
                "prompt_tokens_details": {"cached_tokens": cached},
            }
            _event(handler, {"choices": [], "usage": counted})
        _end(handler)

    def _complete(self, handler: _Handler) -> None:
        """Go on with a prompt, with what it asked for in capitals."""
        prompt = json.loads(self.web.requests[-1].body)["prompt"]
        _begin(handler)
        for word in _words(prompt.upper()):
            _event(handler, {"choices": [{"index": 0, "text": word, "finish_reason": None}]})
        _event(handler, {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
        _end(handler)

    def _embed(self, handler: _Handler) -> None:
        """A vector by the letters of the text, so that similar texts have similar ones."""
        texts = json.loads(self.web.requests[-1].body)["input"]
        data = [{"index": at, "embedding": letters(text)} for at, text in enumerate(texts)]
        _json(handler, 200, {"data": data[::-1], "usage": {"prompt_tokens": sum(len(text) for text in texts)}})

    def _list(self, handler: _Handler) -> None:
        _json(handler, 200, {"object": "list", "data": [{"id": name} for name in self.models]})


def letters(text: str) -> list[float]:
    """How often each letter is in a text, and a little of everything."""
    return [text.lower().count(chr(code)) + 0.01 for code in range(ord("a"), ord("z") + 1)]


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + words[-1:]


def _begin(handler: _Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True


def _event(handler: _Handler, value: Any) -> None:
    with contextlib.suppress(OSError):
        handler.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        handler.wfile.flush()


def _end(handler: _Handler) -> None:
    with contextlib.suppress(OSError):
        handler.wfile.write(b"data: [DONE]\n\n")


def _json(handler: _Handler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
    handler.reply(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


@contextlib.contextmanager
def cloud(certificate: Path | None = None) -> Iterator[Cloud]:
    """Serve on a free port of 127.0.0.1."""
    with web_server(certificate) as web:
        server = Cloud(web)
        try:
            yield server
        finally:
            server.go.set()
