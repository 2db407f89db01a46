"""What the host answers when it cannot: our errors in the form of OpenAI's, with our id as ``code``."""

from __future__ import annotations

from typing import Any

from appliance.contracts import Busy, ConfigError, FlowError

#: The HTTP status of an error by its id; any other is a 500.
STATUS = {
    "bad-request": 400,
    "bad-config": 400,
    "no-model": 404,
    "not-found": 404,
    "method-not-allowed": 405,
    "conflict": 409,
    "too-large": 413,
    "model-unusable": 422,
    "busy": 429,
    "no-model-engine": 501,
    "model-host-away": 503,
    "model-too-large": 507,
}
_TYPES = {429: "rate_limit_error", 404: "not_found_error"}


class BadRequest(FlowError):
    """The request cannot be read, or asks for what is not offered here."""

    id = "bad-request"
    retryable = False


class NotFound(FlowError):
    """There is nothing at this address."""

    id = "not-found"
    retryable = False


class WrongMethod(FlowError):
    """The address does not take this method."""

    id = "method-not-allowed"
    retryable = False


class TooLarge(FlowError):
    """The request, or a picture or sound in it, is larger than the host takes."""

    id = "too-large"
    retryable = False


class NoModel(FlowError):
    """There is no model of this name here, or it is of another kind."""

    id = "no-model"
    retryable = False


class NoEngine(FlowError):
    """What runs this kind of model is not installed."""

    id = "no-model-engine"
    retryable = False


class ModelUnusable(FlowError):
    """The model's file is damaged, or not of a kind that can be run."""

    id = "model-unusable"
    retryable = False


class ModelTooLarge(FlowError):
    """The model does not fit into memory: never (not retryable), or not beside what else runs now."""

    id = "model-too-large"
    retryable = False


class InUse(FlowError):
    """The model is working."""

    id = "conflict"


class Broken(FlowError):
    """A fault of the host's own."""

    id = "internal"


class Stopping(FlowError):
    """The host is being stopped; the next request starts it again."""

    id = "model-host-away"


def too_long(tokens: int, most: int) -> ConfigError:
    """The error of a prompt that does not fit."""
    return ConfigError(
        f"the prompt has {tokens} tokens, and this model reads {most} at most (the answer needs some, too). Shorten "
        "it, or take a model with a longer context"
    )


def status_of(exc: FlowError) -> int:
    """The HTTP status of an error."""
    return STATUS.get(exc.id, 500)


def body_of(exc: FlowError) -> dict[str, Any]:
    """The error as OpenAI's clients know it; what begins with ``flowork_`` is ours."""
    status = status_of(exc)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error: dict[str, Any] = {
        "message": exc.message,
        "type": kind,
        "param": None,
        "code": exc.id,
        "flowork_retryable": exc.retryable,
    }
    if exc.detail is not None:
        error["flowork_detail"] = exc.detail
    return {"error": error}


def headers_of(exc: FlowError) -> list[tuple[str, str]]:
    """``Retry-After`` in whole seconds, where waiting helps (RFC 9110, 10.2.3)."""
    if isinstance(exc, Busy):
        return [("Retry-After", str(max(1, -int(-exc.retry_after // 1))))]
    return [("Retry-After", "1")] if exc.id == Stopping.id else []
