"""Webhooks: requests to ``/hooks/<path>`` that become runs.

They are answered in front of Flask, on bare WSGI: what Flask does around a request would be a fifth of the time
that one takes, and of all requests these are the ones that come in numbers. On the way nothing is read from the
database, nothing is logged, and the kernel is asked once. The path is the secret that lets one in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from appliance.contracts import Event, FlowError, WebRefusal, WebRequest
from appliance.gateway import answers, bodies
from appliance.gateway.guard import allowed_somewhere
from appliance.gateway.hook_table import Hook, HookTable
from appliance.gateway.identity import by_tunnel, headers_of, remote_of
from appliance.gateway.problems import MEDIA, BadRequest, describe, encode, retry_after
from appliance.gateway.services import Gateway
from appliance.kernel.client import KernelAway
from appliance.security.roles import Forbidden
from appliance.store.errors import NotFound

logger = logging.getLogger(__name__)

PREFIX = "/hooks/"
StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
_SAFE = [("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
_JSON = ("Content-Type", "application/json")
_LINES = {status: f"{status.value} {status.phrase}" for status in HTTPStatus}
_MAX_FIELDS = 200
_encode = msgspec.json.Encoder().encode


class Hooks:
    """A WSGI layer: answers webhooks itself, and leaves everything else to the application."""

    def __init__(self, gateway: Gateway, inner: Wsgi) -> None:
        self._gateway = gateway
        self._inner = inner
        self._table = HookTable(gateway)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ.get("PATH_INFO", "")
        if not path.startswith(PREFIX):
            return self._inner(environ, start_response)
        try:
            status, headers, data = self._receive(path[len(PREFIX) :], environ)
        except Exception as exc:
            status, headers, data = self._refusal(exc)
        self._gateway.traffic.count("hooks", status)
        start_response(_LINES[HTTPStatus(status)], [*headers, *_SAFE, ("Content-Length", str(len(data)))])
        return [data] if environ["REQUEST_METHOD"] != "HEAD" else []

    def _receive(self, path: str, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        gateway = self._gateway
        remote = remote_of(environ)
        gateway.callers.take_hook(remote)
        if by_tunnel(environ):
            self._let_in(environ)
        hook = self._table.find(path)
        if hook is None:
            raise NotFound("there is no webhook at this address, or its flow is not live")
        body = bodies.read_body(environ, gateway.settings.max_request_bytes)
        request = WebRequest(environ["REQUEST_METHOD"], _headers(environ), _query(environ), body, remote)
        event: Event = hook.receive(hook.config, request)
        if body:
            bodies.check_depth(body, event.payload)
        try:
            answer = gateway.call("submit", hook.wait + 30.0, **_params(hook, event))
        except KernelAway as exc:
            return self._accept(hook, event, exc)
        return _answer(answer)

    def _let_in(self, environ: Mapping[str, Any]) -> None:
        """Whether webhooks from the internet are taken, and from whom, is a setting. Raises ``FlowError``."""
        gateway = self._gateway
        if gateway.settings.tunnel_hooks == "off":
            raise NotFound("webhooks are not taken here")
        if gateway.settings.tunnel_hooks == "token":
            identity = gateway.callers.identify(environ, headers_of(environ), bytes, websocket=False, public=False)
            if not allowed_somewhere(identity, "events:write"):
                raise Forbidden("a webhook through a tunnel needs an engine token with the scope events:write")

    def _accept(self, hook: Hook, event: Event, exc: KernelAway) -> tuple[int, list[tuple[str, str]], bytes]:
        """No kernel: put the run down for it. A request that it may have got is only safe to repeat with a key."""
        if not hook.starts_run or (exc.sent and not event.unique):
            raise exc
        run = self._gateway.accept(hook.flow, hook.version, hook.trigger, hook.kind, event)
        return 202, [_JSON], _encode({"run": run})

    def _refusal(self, exc: Exception) -> tuple[int, list[tuple[str, str]], bytes]:
        if isinstance(exc, WebRefusal):
            problem = describe(BadRequest(exc.message), self._gateway.scrub)
            problem.status = exc.status if exc.status in _KNOWN else 400
            problem.title = HTTPStatus(problem.status).phrase
            problem.type = f"/docs/errors#{exc.id}"
        else:
            problem = describe(exc, self._gateway.scrub)
        headers = [("Content-Type", MEDIA)]
        if problem.retry_after is not None:
            headers.append(("Retry-After", retry_after(problem.retry_after)))
        return problem.status, headers, encode(problem)


_KNOWN = {status.value for status in HTTPStatus if status.value >= 400}


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    found = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key[:5] == "HTTP_"}
    if kind := environ.get("CONTENT_TYPE"):
        found["content-type"] = kind
    return found


def _query(environ: Mapping[str, Any]) -> dict[str, str]:
    text = environ.get("QUERY_STRING")
    if not text:
        return {}
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise BadRequest(f"the query has more than {_MAX_FIELDS} parameters") from None


def _params(hook: Hook, event: Event) -> dict[str, Any]:
    params: dict[str, Any] = {
        "flow": hook.flow,
        "version": hook.version,
        "trigger": hook.trigger,
        "kind": hook.kind,
        "payload": event.payload,
        "meta": event.meta,
    }
    if event.id:
        params["id"], params["unique"] = event.id, event.unique
    if event.time is not None:
        params["time"] = event.time
    if not hook.starts_run:
        params["starts_run"] = False
    if hook.wait:
        params["wait"] = hook.wait
    return params


def _answer(answer: Mapping[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
    """The run's id, or after waiting its output. Why a run failed is not told to a stranger."""
    run, state = answer["run"], answer.get("state")
    if state is None:
        return 202, [_JSON], _encode({"run": run} if run else {"accepted": True})
    named = [_JSON, ("X-Flowork-Run", run)]
    if state == "succeeded":
        return 200, named, answers.encode(answers.plain(answer["output"]))
    if answer.get("timeout"):
        return 202, named, _encode({"run": run, "state": state})
    problem = describe(RunFailed(f"run {run} has not succeeded: it {_ENDS.get(state, 'has ended')}"), str)
    return problem.status, [("Content-Type", MEDIA), ("X-Flowork-Run", run)], encode(problem)


_ENDS = {"failed": "failed", "cancelled": "was cancelled", "skipped": "was skipped", "dead": "could not be made"}


class RunFailed(FlowError):
    """The run that a webhook waited for did not succeed; its steps tell why."""

    id = "run-failed"
