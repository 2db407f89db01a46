"""What callers send: the bodies of OpenAI's API as far as a local model has what they name, and our own fields.

Fields that are not known are passed over, for OpenAI's clients send many that concern only its own servers. What would
change the answer and is not offered here is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.ai.host.errors import BadRequest
from appliance.ai.host.work import Ask

Share = Annotated[float, Meta(ge=0, le=1)]
_MOST_TEXTS = 2048
_DEFAULT_TOKENS = 512


_OURS = {name: f"flowork_{name}" for name in ("shared", "priority", "adapter")}


class Sampling(Struct, kw_only=True, rename=_OURS):
    """How the next token is chosen, and when to stop; the same for chat and completion."""

    model: str
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0)] = 0
    min_p: Share = 0.0
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    grammar: str | None = None
    n: int | None = 1
    logprobs: bool | int | None = None
    logit_bias: dict[str, Any] | None = None
    frequency_penalty: float | None = 0.0
    presence_penalty: float | None = 0.0
    shared: Annotated[int, Meta(ge=0)] = 0
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    adapter: str = ""

    def usage_wanted(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return bool((self.stream_options or {}).get("include_usage"))

    def common(self) -> dict[str, Any]:
        """The fields of an ``Ask``, but for what is asked. Raises ``BadRequest`` for what is not offered."""
        refused = {
            "n": self.n not in (None, 1),
            "logprobs": self.logprobs not in (None, False, 0),
            "logit_bias": bool(self.logit_bias),
            "frequency_penalty": bool(self.frequency_penalty),
            "presence_penalty": bool(self.presence_penalty),
        }
        if wrong := [name for name, there in refused.items() if there]:
            raise BadRequest(f"{', '.join(wrong)}: not offered by local models; leave it out")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            "schema": _schema(self.response_format),
            "grammar": self.grammar,
            # OpenAI's default is 1; a box that acts on answers wants the same one each time.
            "temperature": 0.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty,
            "seed": self.seed,
            "max_tokens": self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS,
            "stop": tuple(text for text in stop if text),
            "shared": self.shared,
            "priority": self.priority,
            "adapter": self.adapter,
        }


class ChatBody(Sampling, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    tools: list[Any] | None = None

    def ask(self) -> Ask:
        if self.tools:
            raise BadRequest("tools: not offered by local models here; the ai_agent node chooses tools by a schema")
        return Ask(messages=self.messages, **self.common())


class CompletionBody(Sampling, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[str]
    echo: bool | None = False
    suffix: str | None = None

    def ask(self) -> Ask:
        prompt = self.prompt if isinstance(self.prompt, str) else "".join(self.prompt[:1])
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise BadRequest("prompt: one prompt a request")
        if self.echo or self.suffix:
            raise BadRequest("echo, suffix: not offered by local models; leave them out")
        return Ask(prompt=prompt, **self.common())


class EmbeddingsBody(Struct, kw_only=True):
    """``POST /v1/embeddings``."""

    model: str
    input: str | Annotated[list[str], Meta(min_length=1, max_length=_MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None

    def texts(self) -> list[str]:
        if self.dimensions is not None:
            raise BadRequest("dimensions: a model's vectors have the length that they have; leave it out")
        return [self.input] if isinstance(self.input, str) else self.input


class TokensBody(Struct, kw_only=True):
    """``POST /v1/tokens``: how many tokens a text, or each of several, has."""

    model: str
    input: str | Annotated[list[str], Meta(max_length=_MOST_TEXTS)]


class InferBody(Struct, kw_only=True):
    """``POST /v1/infer``: one run of an ONNX model. In JSON, bytes are ``{"base64": …}``."""

    model: str
    inputs: dict[str, Any]
    options: dict[str, Any] = {}


B = TypeVar("B")


def read(kind: type[B], body: bytes) -> B:
    """A body in JSON. Raises ``BadRequest`` that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        raise BadRequest(str(exc)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from None


def _schema(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema that the answer is bound to, from OpenAI's ``response_format``."""
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    schema = ((response_format or {}).get("json_schema") or {}).get("schema")
    if kind != "json_schema" or not isinstance(schema, dict):
        raise BadRequest('response_format: {"type": "json_schema", "json_schema": {"schema": {…}}} binds the answer')
    return schema
