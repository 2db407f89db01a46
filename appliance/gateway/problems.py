"""Every error of the API in one form: RFC 9457 problem details, whatever went wrong and wherever.

``type`` ends in the error's id, which ``/docs/errors`` explains. Nothing of an exception that was not meant for
people is ever shown: it goes to the log under a number, and the answer names the number.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Response
from msgspec import Struct
from werkzeug.exceptions import HTTPException

from appliance.contracts import Busy, FlowError, Problem
from appliance.kernel.client import KernelAway, Refused

logger = logging.getLogger(__name__)

MEDIA = "application/problem+json"
#: The status of an error by its id; any other of our own errors is a 500 that shows its message.
STATUSES: Mapping[str, int] = {
    "bad-request": 400,
    "unauthorized": 401,
    "budget-spent": 402,
    "forbidden": 403,
    "not-found": 404,
    "no-model": 404,
    "conflict": 409,
    "has-effect": 409,
    "no-restore": 409,
    "bad-part": 409,
    "agents-closed": 409,
    "agent-not-updated": 409,
    "no-peers": 409,
    "peers-closed": 409,
    "peer-not-allowed": 409,
    "peer-failed": 502,
    "peer-away": 503,
    "already-exists": 409,
    "in-progress": 409,
    "precondition": 412,
    "too-large": 413,
    "unsupported-type": 415,
    "bad-config": 422,
    "bad-expression": 422,
    "bad-address": 422,
    "bad-release": 422,
    "invalid": 422,
    "invalid-flow": 422,
    "key-reused": 422,
    "wrong-key": 422,
    "model-unusable": 422,
    "busy": 429,
    "run-failed": 502,
    "node-failed": 502,
    "timed-out": 504,
    "no-model-engine": 501,
    "kernel-away": 503,
    "model-host-away": 503,
    "store-busy": 503,
    "store-away": 503,
    "backup-place": 502,
    "cannot-fetch": 502,
    "store-failed": 503,
    "disk-full": 507,
    "model-too-large": 507,
    "no-room": 507,
}
#: Seconds after which a caller may come back, where nothing better is known.
_LATER = {503: 2.0, 507: 60.0}


class ProblemDetails(Struct, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457). ``problems`` names each fault of what was sent, with its place."""

    type: str
    title: str
    status: int
    detail: str = ""
    problems: list[Problem] = []
    retry_after: float | None = None
    extra: Any = None
    incident: str = ""


class Invalid(FlowError):
    """What was sent has faults; ``problems`` names all of them."""

    id = "invalid"
    retryable = False

    def __init__(self, problems: Sequence[Problem], what: str = "the request") -> None:
        count = "a fault" if len(problems) == 1 else f"{len(problems)} faults"
        super().__init__(f"{what} has {count}: {_listed(problems)}")
        self.problems = list(problems)


class BadRequest(FlowError):
    """The request cannot be read."""

    id = "bad-request"
    retryable = False


class TooLarge(FlowError):
    """The request is larger than the engine takes."""

    id = "too-large"
    retryable = False


class UnsupportedType(FlowError):
    """The body is not of a type that is taken here."""

    id = "unsupported-type"
    retryable = False


class PreconditionFailed(FlowError):
    """``If-Match`` names another version than the newest."""

    id = "precondition"
    retryable = False


class Unavailable(FlowError):
    """The gateway cannot do this at the moment."""

    id = "kernel-away"


def _listed(problems: Sequence[Problem]) -> str:
    first = [f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems[:3]]
    return "; ".join(first) + (" …" if len(problems) > len(first) else "")


def describe(exc: BaseException, scrub: Callable[[str], str]) -> ProblemDetails:
    """The problem details of any exception; ``scrub`` takes secrets out of texts."""
    if isinstance(exc, FlowError):
        return _ours(exc, scrub)
    if isinstance(exc, HTTPException):
        return _http(exc)
    incident = secrets.token_hex(4)
    scrub("")  # so that the log knows the newest secrets
    logger.error("incident %s", incident, exc_info=exc)
    detail = f"something broke here that should not; the gateway's log has it as incident {incident}"
    return _problem("internal", 500, detail, incident=incident)


def error_id_of(exc: FlowError) -> str:
    """An error's id; that of the kernel's own error where it was passed on."""
    return exc.error_id if isinstance(exc, Refused) else exc.id


def _ours(exc: FlowError, scrub: Callable[[str], str]) -> ProblemDetails:
    error_id = error_id_of(exc)
    status = STATUSES.get(error_id, 500)
    if status == 500:
        logger.error("%s: %s", error_id, exc.message, exc_info=exc)
    problem = _problem(error_id, status, scrub(exc.message))
    # Of ``Invalid``, and of the flow book's ``InvalidFlow``, which is only loaded when flows are saved.
    faults: Sequence[Problem] = getattr(exc, "problems", ())
    if faults:
        problem.problems = [Problem(scrub(fault.path), scrub(fault.message)) for fault in faults]
    elif status == 422:
        place, separator, message = problem.detail.partition(": ")
        named = separator and " " not in place
        problem.problems = [Problem(place, message) if named else Problem("", problem.detail)]
    if isinstance(exc, Busy):
        problem.retry_after = exc.retry_after
    elif isinstance(exc, KernelAway) or status in _LATER:
        problem.retry_after = _LATER.get(status, 2.0)
    if isinstance(exc.detail, dict) and status == 409:
        problem.extra = exc.detail
    return problem


def _http(exc: HTTPException) -> ProblemDetails:
    status = exc.code or 500
    known = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-type"}
    detail = {
        404: "there is nothing at this address; /api/v1/openapi.json names all that there is",
        405: "this address does not take that method",
    }.get(status, exc.description or "")
    return _problem(known.get(status, "bad-request" if status < 500 else "internal"), status, detail)


def _problem(error_id: str, status: int, detail: str, incident: str = "") -> ProblemDetails:
    return ProblemDetails(
        type=f"/docs/errors#{error_id}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        incident=incident,
    )


def respond(problem: ProblemDetails, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP answer of a problem."""
    response = Response(encode(problem), problem.status, content_type=MEDIA)
    response.headers.extend(dict(headers or {}))
    response.headers["Cache-Control"] = "no-store"
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="Flowork"'
    if problem.retry_after is not None:
        response.headers["Retry-After"] = retry_after(problem.retry_after)
    return response


def retry_after(seconds: float) -> str:
    """Whole seconds, at least one (RFC 9110, 10.2.3)."""
    return str(max(1, -int(-seconds // 1)))


def encode(problem: ProblemDetails) -> bytes:
    """The problem as JSON."""
    return msgspec.json.encode(problem)
