"""Asking a model once, for the panel and the command line; other programs have the OpenAI API at ``/v1``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ChatReply, ChatRequest, ModelFacts
from appliance.gateway import answers
from appliance.gateway.common import Body
from appliance.gateway.patience import patiently
from appliance.gateway.problems import describe
from appliance.gateway.routing import Call, Nothing, Noun, Pieces
from appliance.gateway.told import Told

noun = Noun("questions", "Asking models, those of this machine and of its upstreams. Other programs ask at `/v1`.")

#: Seconds beyond a question's own patience that the kernel may take.
SPARE = 30.0
#: Seconds without a word after which an empty line is sent; it is also how a listener who has gone is noticed.
QUIET = 1.0
LINES = "application/x-ndjson"


class Question(Body, frozen=True):
    """A question to a model."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=1000, description="As in OpenAI's API")]
    models: Annotated[list[str], Meta(max_length=20, description="Tried in this order; none: the default")] = []
    schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema that the answer fits")] = None
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 512
    timeout: Annotated[float, Meta(gt=0, le=3600, description="Seconds for each model")] = 120.0


class Place(Struct, frozen=True, kw_only=True):
    """An upstream (`local` is this machine) with its models, as a step's `models` may name them.

    `breaker` is `closed` while it works; `error` says why its models cannot be told.
    """

    upstream: str
    place: str = ""
    local: bool = False
    breaker: str = "closed"
    models: list[ModelFacts] = []
    error: str = ""


class Choices(Struct, frozen=True, kw_only=True):
    """What can be asked; `default` are the models that are tried where a step names none."""

    default: list[str]
    default_embed: str
    items: list[Place]


@noun.post("/questions", permission="models:use", anywhere=True, errors=(402, 502, 503, 504), unaudited="only asks")
def ask(call: Call[Nothing, Question]) -> ChatReply:
    """Ask a model once, and wait for its whole answer. Giving up the request ends the work."""
    patience = call.body.timeout * max(1, len(call.body.models)) + SPARE
    return msgspec.convert(patiently(call.gateway, "model_chat", patience, **_asked(call)), ChatReply)


@noun.post(
    "/questions/stream",
    permission="models:use",
    anywhere=True,
    errors=(402, 502, 503, 504),
    unaudited="only asks",
    media=LINES,
)
def ask_and_listen(call: Call[Nothing, Question]) -> Pieces:
    """Ask a model once, and read its answer while it is made. Giving up the request ends the work.

    Each line is JSON: `{"text": …}` is what comes next, `{"anew": true}` says that the answer begins again (a model
    failed, and the next one is asked), `{"reply": …}` is the whole answer as `POST /questions` gives it, and
    `{"error": …}` a problem that came too late for a status. Empty lines say that the model is still at work.
    """
    gateway = call.gateway
    with gateway.places.one() as keep:
        stream = gateway.kernel.stream("model_chat", stream=True, **_asked(call))
        try:
            items = stream.items(QUIET)
            # What is wrong with a question is known at once, and has a status of its own.
            first = next(items)
        except BaseException:
            stream.close()
            raise
        keep()

    def broken(exc: Exception) -> bytes:
        return _line({"error": describe(exc, gateway.scrub)})

    return Pieces(Told(stream, gateway.places, _lines(first, items), broken), LINES)


def _asked(call: Call[Nothing, Question]) -> dict[str, Any]:
    """The parameters of the kernel's ``model_chat``."""
    question = call.body
    fields = {name: getattr(question, name) for name in question.__struct_fields__}
    request = ChatRequest(**{**fields, "models": tuple(question.models)})
    return {"who": who(call), "request": msgspec.to_builtins(request)}


def _lines(first: Any, rest: Iterator[Any]) -> Iterator[bytes]:
    for item in itertools.chain([first], rest):
        yield b"\n" if item is None else _line(item)
        if item is not None and "reply" in item:
            return


def _line(value: Any) -> bytes:
    return answers.encode(value) + b"\n"


@noun.get("/questions/models", permission="catalog:read", anywhere=True, errors=(503,))
def list_models(call: Call[Nothing, Nothing]) -> Choices:
    """All models that can be asked, by the place where they are."""
    settings = call.gateway.settings
    items = [msgspec.convert(one, Place) for one in call.gateway.call("model_list", 60.0)]
    return Choices(default=list(settings.model_default), default_embed=settings.model_embed, items=items)


def who(call: Call[Any, Any]) -> str:
    """The name under which a caller's use is kept."""
    return call.identity.name or call.identity.label
