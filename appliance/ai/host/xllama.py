"""The engine where nothing can be compiled: language models by xllamacpp's ready-made wheels.

It does what its server does: chat, completion, schemas, several answers at once, beginnings reused while a slot still
has them. It does not keep those over a restart, prefers nobody, cancels a prompt only behind it, and has no adapters.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import xllamacpp

from appliance.ai.host.errors import ModelUnusable, too_long
from appliance.ai.host.llama import ggufs
from appliance.ai.host.work import Answer, Ask
from appliance.contracts import Busy, ConfigError, FlowError, NodeError

#: Answers at once: its slots share the context, so more of them are shorter ones.
_SLOTS = 2
_MOST_WAITING = 64
#: Bytes of a prompt that make at least one token, and tokens of what its template adds.
_BYTES_A_TOKEN, _TEMPLATE = 2, 64
_BETTER = "; `flowork models setup --again` makes one that does, where there is a C++ compiler (sudo apt install g++)"
#: By its ending the server knows that this is no host name.
_SOCKET = "models.sock"
#: Below all levels of ggml's messages: none is printed.
_SILENT = -1


class Xllama:
    """A ``Language`` (``work.py``) over one server of xllamacpp, which listens on a Unix socket of this user's."""

    def __init__(self, name: str, facts: ggufs.Facts, context: int, server: Any, folder: Path) -> None:
        self._name = name
        self._facts = facts
        self._context = context
        self._server = server
        self._folder = folder
        self._threads = ThreadPoolExecutor(_SLOTS, thread_name_prefix=f"xllama {name}")
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()
        self._cells = context
        self._freed = threading.Condition(self._lock)

    def submit(
        self, ask: Ask, on_text: Callable[[str], None], on_end: Callable[[Answer | None, Exception | None], None]
    ) -> Job:
        if ask.adapter:
            raise ConfigError(f"the ready-made engine takes no adapters like {ask.adapter!r}{_BETTER}")
        if any(isinstance(message.get("content"), list) and _pictured(message["content"]) for message in ask.messages):
            raise ConfigError(f"the ready-made engine sees no pictures{_BETTER}")
        job = Job(ask, on_text, on_end, self._cancel)
        with self._lock:
            if len(self._jobs) >= _SLOTS + _MOST_WAITING:
                raise Busy(f"{len(self._jobs)} requests wait for {self._name!r}")
            job.turn = self._threads.submit(self._work, job)
            self._jobs.add(job)
        return job

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if not self._facts.pooling:
            raise ConfigError(f"{self._name!r} makes no embeddings; take a model that is made for it")
        found = _checked(self._server.handle_embeddings({"input": list(texts)}))
        ordered = sorted(found["data"], key=lambda one: one["index"])
        return [one["embedding"] for one in ordered]

    def count(self, text: str) -> int:
        return len(self._ask("/tokenize", {"content": text})["tokens"])

    def describe(self) -> dict[str, Any]:
        with self._lock:
            jobs = len(self._jobs)
        return {
            "engine": f"xllamacpp {xllamacpp.__version__}",
            "architecture": self._facts.architecture,
            "context": self._context,
            "bytes": self._facts.size + self._facts.cell * self._context,
            "active": min(jobs, _SLOTS),
            "queued": max(0, jobs - _SLOTS),
        }

    def close(self) -> None:
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        self._threads.shutdown(wait=True)
        self._server = None  # its own end stops it
        shutil.rmtree(self._folder, ignore_errors=True)

    def _cancel(self, job: Job) -> None:
        """One that waits for its turn, or for its part of the context, ends at once."""
        with self._freed:
            if job.cancelled:
                return
            job.cancelled = True
            self._freed.notify_all()
            waits = job.turn is not None and job.turn.cancel()
            if waits:
                self._jobs.discard(job)
        if waits:
            job.end()

    def _work(self, job: Job) -> None:
        try:
            handle = self._server.handle_chat_completions if job.ask.messages else self._server.handle_completions
            with self._room(job) as there:
                if there:
                    job.run(handle)
                else:
                    job.end()
        finally:
            with self._lock:
                self._jobs.discard(job)

    @contextmanager
    def _room(self, job: Job) -> Iterator[bool]:
        """Its part of the context, waited for: two answers that grow beyond it together would both fail. False if it
        was cancelled meanwhile.
        """
        asked = msgspec.json.encode(list(job.ask.messages)) if job.ask.messages else (job.ask.prompt or "").encode()
        need = min(self._context, len(asked) // _BYTES_A_TOKEN + _TEMPLATE + job.ask.max_tokens)
        with self._freed:
            self._freed.wait_for(lambda: job.cancelled or self._cells >= need)
            if job.cancelled:
                need = 0
            self._cells -= need
            there = not job.cancelled
        try:
            yield there
        finally:
            with self._freed:
                self._cells += need
                self._freed.notify_all()

    def _ask(self, path: str, body: Any) -> Any:
        """Its HTTP API, for what it has no function for."""
        link = http.client.HTTPConnection("models")
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.sock.connect(str(self._folder / _SOCKET))
            link.request("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})
            return _checked(msgspec.json.decode(link.getresponse().read()))
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as exc:
            raise NodeError(f"{self._name!r} does not answer: {exc}") from None
        finally:
            link.close()


def _pictured(content: list[Any]) -> bool:
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in content)


class Job:
    """One generation; also its ``Ticket``."""

    def __init__(
        self,
        ask: Ask,
        on_text: Callable[[str], None],
        on_end: Callable[[Answer | None, Exception | None], None],
        on_cancel: Callable[[Job], None],
    ) -> None:
        self.ask = ask
        self.cancelled = False
        #: Its place among those that wait for one of the model's threads.
        self.turn: Future[None] | None = None
        self._on_text = on_text
        self._on_end = on_end
        self._on_cancel = on_cancel
        self._error: Exception | None = None
        self._submitted = time.monotonic()
        self._first = 0.0
        self._pieces: list[str] = []
        self._finish = "stop"
        self._usage: Mapping[str, Any] = {}

    def cancel(self) -> None:
        """Ends it with the next token, or at once if it has not begun."""
        self._on_cancel(self)

    def run(self, handle: Callable[[dict[str, Any], Callable[[Any], bool]], Any]) -> None:
        """On a thread of the model's: to its end, whatever that is."""
        began = self._since()
        try:
            _checked(handle(_body(self.ask), self._take) or {})
        except Exception as exc:
            self._error = exc
        self.end(began)

    def end(self, began: float = 0.0) -> None:
        """Tell how it ended; ``began`` as in ``Answer``."""
        if self._error is not None:
            self._on_end(None, self._error)
            return
        details = self._usage.get("prompt_tokens_details") or {}
        answer = Answer(
            text="".join(self._pieces),
            finish="cancelled" if self.cancelled else self._finish,
            tokens_in=self._usage.get("prompt_tokens", 0),
            tokens_cached=details.get("cached_tokens", 0),
            tokens_out=self._usage.get("completion_tokens", 0),
            began=began,
            first=self._first or self._since(),
            seconds=self._since(),
        )
        self._on_end(answer, None)

    def _take(self, chunk: Any) -> bool:
        """One piece of the answer; true ends it. What is raised here would be lost in C++."""
        try:
            _checked(chunk)
        except FlowError as exc:
            self._error = exc
            return True
        for choice in chunk.get("choices", ()):
            self._finish = choice.get("finish_reason") or self._finish
            text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
            if text:
                self._first = self._first or self._since()
                self._pieces.append(text)
                self._on_text(text)
        self._usage = chunk.get("usage") or self._usage
        return self.cancelled

    def _since(self) -> float:
        return time.monotonic() - self._submitted


def load(path: Path, name: str, context: int) -> Xllama:
    """Load a model file. Raises ``ConfigError`` for a file that is no good."""
    facts = ggufs.read(path)
    # Short, for the path of a Unix socket has 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="flowork-"))
    cores = len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = [str(folder / _SOCKET)]
    params.n_ctx = context
    params.n_parallel = _SLOTS
    params.kv_unified = True
    params.warmup = False
    params.verbosity = _SILENT
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = max(1, cores // 2), cores
    params.embedding = bool(facts.pooling)
    try:
        server = xllamacpp.Server(params)
    except Exception as exc:  # it raises what its C++ does
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelUnusable(f"{path.name} cannot be loaded: {exc}") from None
    return Xllama(name, facts, context, server, folder)


def _body(ask: Ask) -> dict[str, Any]:
    """What its server is asked (llama.cpp's server, README: OpenAI's API and fields of its own)."""
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": ask.max_tokens,
        "n_predict": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "top_k": ask.top_k,
        "min_p": ask.min_p,
        "repeat_penalty": ask.repeat_penalty,
        "stop": list(ask.stop),
    }
    if ask.messages:
        body["messages"] = list(ask.messages)
    else:
        body["prompt"] = ask.prompt or ""
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.grammar is not None:
        body["grammar"] = ask.grammar
    if ask.schema is not None and ask.messages:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": ask.schema}}
    elif ask.schema is not None:
        body["json_schema"] = ask.schema
    return body


def _checked(found: Any) -> Any:
    """The answer, if it is none about an error."""
    error = found.get("error") if isinstance(found, Mapping) else None
    if error is None:
        return found
    message = str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
    code = error.get("code") if isinstance(error, Mapping) else None
    if isinstance(error, Mapping) and "n_prompt_tokens" in error:
        raise too_long(error["n_prompt_tokens"], error.get("n_ctx", 1) - 1)
    if code == 503:
        raise Busy(message)
    if isinstance(code, int) and 400 <= code < 500:
        raise ConfigError(message)
    raise NodeError(message)
