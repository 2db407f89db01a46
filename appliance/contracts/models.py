"""Models: what ``ctx.models`` offers to nodes, wherever the model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct


class ChatRequest(Struct, frozen=True, kw_only=True):
    """One question to a language model.

    ``messages`` are those of OpenAI's chat format: ``{"role": "system" | "user" | "assistant", "content": text}``,
    where ``content`` may also be a list of parts: ``{"type": "text", "text": …}``, ``{"type": "image", "image":
    reference}`` with a blob's reference, or OpenAI's ``image_url`` with a ``data:`` URL. ``models`` are names, tried
    in this order; none: the engine's default. With ``schema`` (JSON Schema) the answer is one JSON value that fits
    it. ``shared`` is how many of the first messages are the same at every call: a local model evaluates those once
    and keeps them. ``timeout`` is in seconds, for one model, waiting for it included. With ``cache`` an answer that
    is known from the same question at temperature 0 is given again. A ``prompt`` instead of messages is a text that
    the model goes on with, word for word as it is.
    """

    messages: Sequence[dict[str, Any]] = ()
    models: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    shared: int = 0
    timeout: float = 120.0
    cache: bool = True
    prompt: str | None = None


class ChatReply(Struct, frozen=True, kw_only=True):
    """A model's answer. ``data`` is the JSON value if a schema was given; ``finish`` is ``stop`` or ``length``.

    ``provider`` made it (``local`` is this machine), ``cost`` is in US dollars, ``seconds`` the whole time and
    ``first`` until the first token, ``tokens_cached`` those of ``tokens_in`` that had not to be evaluated anew.
    ``from_cache``: the answer to the same question was still known.
    """

    text: str
    data: Any = None
    model: str
    provider: str
    finish: str = "stop"
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    first: float = 0.0
    cost: float = 0.0
    from_cache: bool = False


class Vectors(Struct, frozen=True, kw_only=True):
    """One vector of length 1 per text, in order; those of different ``model`` cannot be compared."""

    vectors: list[list[float]]
    model: str
    provider: str
    tokens: int = 0
    cost: float = 0.0


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is known of a model before it is asked. ``place`` is who sees the prompt: empty for this machine,
    else a host name. ``context`` is in tokens, 0 if that is not known. ``task`` is ``language``, ``embed`` or what an
    ONNX model is for; empty if nobody knows.
    """

    name: str
    provider: str
    place: str = ""
    context: int = 0
    images: bool = False
    task: str = ""


class Inference(Struct, frozen=True, kw_only=True):
    """What an ONNX model found: ``outputs`` are JSON values, and bytes for pictures; ``task`` says which there are
    (docs/onnx.md). ``seconds`` is the model's own time.
    """

    outputs: dict[str, Any]
    task: str
    model: str
    provider: str
    seconds: float = 0.0


class Models(Protocol):
    """The engine's models, for one step: what it uses is put to its flow's and node's account.

    Cancelling an await ends the work at once, in the model host too. All raise ``NodeError`` (retryable where a later
    try may succeed), ``Busy`` past the queue's bound, ``TimedOut``, and ``ConfigError`` for a model that is not there.
    """

    async def chat(self, request: ChatRequest, on_text: Callable[[str], None] | None = None) -> ChatReply:
        """``on_text`` gets the answer piece by piece as it is made, on the engine's IO thread.

        Where an answer was cut off in the middle and is begun anew, those who watch the step see it begin anew.
        """

    async def embed(self, texts: Sequence[str], model: str = "", timeout: float = 60.0) -> Vectors:
        """Vectors by a name, or by the engine's default for embeddings."""

    async def count(self, text: str, model: str = "") -> int:
        """Tokens of a text; a guess (bytes by four) where the model's tokenizer is elsewhere."""

    async def facts(self, model: str = "") -> ModelFacts:
        """What is known of a model, by name or the default."""

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> Inference:
        """Run an ONNX model of this machine once. ``inputs`` are JSON values, and bytes for pictures and sound, by the
        names that its task has: ``image``, ``audio``, ``text``, or those of the graph.
        """
