"""What callers of ``/v1`` send, made into questions; fields that are not known are passed over, as OpenAI's clients
send many that concern its own servers alone. What would change the answer and is not offered here is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ChatRequest, Problem
from appliance.gateway.bodies import decode_json
from appliance.gateway.problems import Invalid

Share = Annotated[float, Meta(ge=0, le=1)]
Heat = Annotated[float, Meta(ge=0, le=2)]
Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
#: Seconds that one answer may take, waiting for the model included.
PATIENCE = 600.0
_TOKENS = 512
B = TypeVar("B", bound=Struct)


class Sampling(Struct, kw_only=True):
    """What chat and completion have in common; an empty ``model`` is the engine's default."""

    model: str = ""
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Heat | None = None
    top_p: Share | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    n: int | None = 1
    logprobs: bool | int | None = None

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return bool((self.stream_options or {}).get("include_usage"))

    def common(self) -> dict[str, Any]:
        """The fields of a question that both have. Raises ``Invalid``."""
        if self.n not in (None, 1):
            raise _refused("n", "one answer to a request")
        if self.logprobs:
            raise _refused("logprobs", "not offered here; leave it out")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            "models": (self.model,) if self.model.strip() else (),
            "temperature": self.temperature or 0.0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": self.seed,
            "max_tokens": self.max_completion_tokens or self.max_tokens or _TOKENS,
            "stop": tuple(text for text in stop if text),
            "timeout": PATIENCE,
        }


class ChatBody(Sampling, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10_000)]
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None

    def question(self) -> ChatRequest:
        """The question. Raises ``Invalid``."""
        if self.tools:
            raise _refused("tools", "not offered here; a flow with an ai_agent step chooses tools")
        return ChatRequest(messages=self.messages, schema=_schema(self.response_format), **self.common())


class CompletionBody(Sampling, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[str]

    def question(self) -> ChatRequest:
        """The question. Raises ``Invalid``."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise _refused("prompt", "one prompt a request")
        return ChatRequest(prompt=prompts[0], **self.common())


class EmbeddingsBody(Struct, kw_only=True):
    """``POST /v1/embeddings``."""

    model: str = ""
    input: str | Annotated[list[str], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """What is to become vectors. Raises ``Invalid``."""
        if self.dimensions is not None:
            raise _refused("dimensions", "a model's vectors have the length that they have; leave it out")
        return [self.input] if isinstance(self.input, str) else self.input


def read(kind: type[B], body: bytes) -> B:
    """A body in JSON. Raises ``BadRequest``, ``Invalid`` that names the field."""
    try:
        return msgspec.convert(decode_json(body), kind)
    except msgspec.ValidationError as exc:
        text, _, place = str(exc).partition(" - at `")
        raise Invalid([Problem(place.rstrip("`").removeprefix("$").lstrip("."), text)]) from None


def _schema(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema that the answer is to fit."""
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    wrapped = (response_format or {}).get("json_schema")
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise _refused("response_format", '{"type": "json_schema", "json_schema": {"schema": {…}}} binds the answer')
    return schema


def _refused(field: str, why: str) -> Invalid:
    return Invalid([Problem(field, why)])
