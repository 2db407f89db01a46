"""The one place that every endpoint goes through: who calls, may they, what do they send; then the function.

The order matters. Nothing is read of a body, and nothing is looked up, for a caller who is not known; what is
looked up is hidden from those who may not see it; and only then it is said what is wrong with the request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from flask import Response, request

from appliance.gateway import answers, bodies
from appliance.gateway.idempotency import LONGEST_KEY, Answer
from appliance.gateway.identity import headers_of, remote_of
from appliance.gateway.places import look_up
from appliance.gateway.problems import BadRequest
from appliance.gateway.routing import OWN, Call, Endpoint, Pieces, Raw
from appliance.gateway.services import Gateway
from appliance.security.roles import (
    DEFAULT_WORKSPACE,
    EVERYWHERE,
    PERMISSIONS,
    Forbidden,
    Identity,
    Unauthorized,
    allowed,
    require,
)

JSON = "application/json"
#: Data of an engine is never kept by a browser or proxy; with a tag it may be asked again whether it changed.
_CACHE = {True: "private, no-cache", False: "no-store"}


def view_of(gateway: Gateway, endpoint: Endpoint) -> Callable[..., Response]:
    """The function that Flask calls for an endpoint."""

    def view(**texts: str) -> Response:
        return _answer(gateway, endpoint, texts)

    return view


def _answer(gateway: Gateway, endpoint: Endpoint, texts: Mapping[str, str]) -> Response:
    environ = request.environ
    headers = headers_of(environ)
    body = _Body(gateway, environ)
    identity = gateway.callers.identify(environ, headers, body, websocket=False, public=bool(endpoint.public))
    gateway.callers.take(identity, remote_of(environ))
    if identity.kind == "anonymous" and not endpoint.public:
        raise Unauthorized("sign in first, or send an engine token: Authorization: Bearer flw_…")
    if not endpoint.public and not allowed_somewhere(identity, endpoint.permission):
        raise _never(identity, endpoint.permission)
    found, workspace = _place(gateway, endpoint, identity, texts)
    if found is None:
        query = bodies.query_of(environ.get("QUERY_STRING", ""), endpoint.query)
        workspace = getattr(query, "workspace", workspace)
        _require(endpoint, identity, workspace)
    else:
        _require(endpoint, identity, workspace)
        query = bodies.query_of(environ.get("QUERY_STRING", ""), endpoint.query)
    values = {
        name: found if name == endpoint.found else bodies.parameter_of(texts[name], kind, name)
        for name, kind in endpoint.parameters.items()
    }
    sent = _sent(endpoint, headers, body)
    call: Call[Any, Any] = Call(gateway, identity, workspace, query, sent)
    call.request = headers
    if endpoint.answer is Pieces:
        return _told(endpoint.handler(call, **values))
    return _once(endpoint, call, headers, body, values)


class _Body:
    """The body, read when somebody asks for it, and once."""

    def __init__(self, gateway: Gateway, environ: Mapping[str, Any]) -> None:
        self._gateway = gateway
        self._environ = environ
        self._data: bytes | None = None

    def __call__(self) -> bytes:
        if self._data is None:
            self._data = bodies.read_body(self._environ, self._gateway.settings.max_request_bytes)
        return self._data


def _place(gateway: Gateway, endpoint: Endpoint, identity: Identity, texts: Mapping[str, str]) -> tuple[Any, str]:
    """What the path names, and its workspace."""
    if not endpoint.found:
        return None, DEFAULT_WORKSPACE
    kind = endpoint.parameters[endpoint.found]
    text = bodies.parameter_of(texts[endpoint.found], str, endpoint.found)
    return look_up(gateway, identity, endpoint.permission, kind, text)


def _require(endpoint: Endpoint, identity: Identity, workspace: str) -> None:
    if not endpoint.public and not endpoint.anywhere:
        require(identity, endpoint.permission, workspace)


def _never(identity: Identity, permission: str) -> Forbidden:
    """The refusal for who may not do this anywhere; said before anything is looked up, so it tells nothing else."""
    rule = PERMISSIONS[permission]
    where = " for all workspaces" if rule.engine else ""
    if identity.kind == "token":
        return Forbidden(f"this token may not do that: {permission} needs the scope {rule.scope}{where}")
    return Forbidden(f"you may not do that: {permission} needs the role {rule.role}{where}")


def allowed_somewhere(identity: Identity, permission: str) -> bool:
    """Whether the caller has the permission in any workspace."""
    places = [identity.workspace] if identity.kind == "token" else list(identity.roles)
    return any(allowed(identity, permission, DEFAULT_WORKSPACE if place == EVERYWHERE else place) for place in places)


def _sent(endpoint: Endpoint, headers: Mapping[str, str], body: Callable[[], bytes]) -> Any:
    if not endpoint.takes_body:
        if endpoint.method != "GET" and body().strip() not in {b"", b"{}", b"null"}:
            raise BadRequest("this takes no body")
        return endpoint.body()
    bodies.require_json(headers.get("content-type", ""))
    return bodies.body_of(body(), endpoint.body)


def _once(
    endpoint: Endpoint, call: Call[Any, Any], headers: Mapping[str, str], body: Callable[[], bytes], values: Any
) -> Response:
    """Call the function, or give the answer that the same request was given before."""
    key = headers.get("idempotency-key", "")
    if len(key) > LONGEST_KEY:
        raise BadRequest(f"the Idempotency-Key is longer than {LONGEST_KEY} characters")
    if endpoint.own_key:
        call.key = key
    if not key or not endpoint.once:
        return _response(endpoint, _perform(endpoint, call, values), headers)
    target = f"{request.method} {request.path}?{request.query_string.decode('latin-1')}"
    digest = hashlib.sha256(target.encode() + b"\0" + body()).digest()
    key = f"{call.identity.label} {key}"
    remembered = call.gateway.remembered
    if (again := remembered.begin(key, digest)) is not None:
        return _response(endpoint, again, headers)
    try:
        answer = _perform(endpoint, call, values)
    except BaseException:
        remembered.drop(key)
        raise
    remembered.keep(key, answer)
    return _response(endpoint, answer, headers)


def _perform(endpoint: Endpoint, call: Call[Any, Any], values: Mapping[str, Any]) -> Answer:
    result = _audited(endpoint, call, values) if endpoint.atomic else endpoint.handler(call, **values)
    if endpoint.audit not in {"", OWN} and not endpoint.atomic:
        call.gateway.write_audit(call.identity, endpoint.audit, call.target, call.workspace, call.detail)
    for work in call.after:
        work()
    headers = dict(call.headers)
    if isinstance(result, Raw):
        headers["Content-Type"] = result.type
        return Answer(call.status or endpoint.status, result.data, {**headers, **result.headers})
    data = b"" if result is None else answers.encode(result)
    return Answer(call.status or endpoint.status, data, headers)


def _told(pieces: Pieces) -> Response:
    response = Response(pieces.told, content_type=pieces.type)
    response.headers["Cache-Control"] = _CACHE[False]
    response.headers["X-Accel-Buffering"] = "no"  # for a proxy in between that would gather what is told
    return response


def _audited(endpoint: Endpoint, call: Call[Any, Any], values: Mapping[str, Any]) -> Any:
    """The change and its audit entry are kept together or not at all."""
    gateway = call.gateway
    gateway.know_secrets()
    with gateway.store.atomically():
        result = endpoint.handler(call, **values)
        entry = gateway.audit.add(
            call.identity.label, endpoint.audit, call.target, call.detail, workspace=call.workspace
        )
    gateway.audit.settle(entry)
    return result


def _response(endpoint: Endpoint, answer: Answer, headers: Mapping[str, str]) -> Response:
    given = dict(answer.headers)
    if endpoint.etag and answer.status == 200:
        tag = given.setdefault("ETag", answers.weak_tag(answer.data))
        if (wanted := headers.get("if-none-match")) and answers.matches(wanted, tag):
            kept = {"ETag": tag, "Cache-Control": given.get("Cache-Control", _CACHE[True])}
            return Response(status=304, headers=kept)
    given.setdefault("Cache-Control", _CACHE[endpoint.etag])
    media = None if answer.status == 204 else given.pop("Content-Type", JSON)
    response = Response(answer.data, answer.status, headers=given, content_type=media)
    if media is None:
        response.headers.pop("Content-Type", None)
    return response
