"""The OpenAPI 3.1 document, made from the declarations of the endpoints and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from appliance.gateway.places import FOUND, is_found
from appliance.gateway.problems import MEDIA, ProblemDetails
from appliance.gateway.routing import PREFIX, Endpoint, Nothing, Noun, Pieces, Raw
from appliance.security.roles import PERMISSIONS

_REF = "#/components/schemas/{name}"
_NO_BODY = (type(None), Raw, Pieces)
_ABOUT = """The engine's whole API: everything the panel and the command line do, they do through this.

Send an engine token (`Authorization: Bearer flw_…`). Lists come in pages: `next` is the `cursor` of the next one, empty
at the end. Times are Unix seconds, durations seconds. Errors are RFC 9457 problem details."""


def document(nouns: Sequence[Noun], version: str, cookie: str) -> dict[str, Any]:
    """The document for all endpoints of all nouns; ``cookie`` is the name of the session's."""
    endpoints = [endpoint for noun in nouns for endpoint in noun.endpoints]
    schemas = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Flowork", "version": version, "description": _ABOUT},
        "tags": [{"name": noun.name, "description": noun.about} for noun in nouns if noun.endpoints],
        "paths": dict(sorted(paths.items())),
        "security": [{"token": []}, {"session": []}],
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "An engine token, `flw_…`"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookie,
                    "description": "The panel's session, after `POST /api/v1/session`",
                },
            },
        },
    }


class _Schemas:
    """The schema of every type, once; structs by reference."""

    def __init__(self, kinds: Iterable[Any]) -> None:
        known = list(kinds)
        refs, self.components = msgspec.json.schema_components(known, ref_template=_REF)
        _take_repeated(self.components)
        self._refs = dict(zip(map(repr, known), refs, strict=True))
        #: Queries are told parameter by parameter.
        self.queries: dict[type, dict[str, Any]] = {}

    def __getitem__(self, kind: Any) -> dict[str, Any]:
        return dict(self._refs[repr(kind)])


def _take_repeated(schema: Any) -> None:
    """A set is taken as a list in which something may stand twice: say so, as the decoder does."""
    if isinstance(schema, dict):
        schema.pop("uniqueItems", None)
        for part in schema.values():
            _take_repeated(part)
    elif isinstance(schema, list):
        for part in schema:
            _take_repeated(part)


def _schemas(endpoints: Sequence[Endpoint]) -> _Schemas:
    kinds: dict[str, Any] = {repr(ProblemDetails): ProblemDetails}
    for endpoint in endpoints:
        parameters = (kind for kind in endpoint.parameters.values() if not is_found(kind))
        for kind in (endpoint.query, endpoint.body, endpoint.answer, *parameters):
            if kind not in _NO_BODY:
                kinds[repr(kind)] = kind
    found = _Schemas(kinds.values())
    for endpoint in endpoints:
        shape = found.components.pop(endpoint.query.__name__, None)
        if shape is not None:
            found.queries[endpoint.query] = shape
    found.components.pop(Nothing.__name__, None)
    return found


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    summary, _, rest = endpoint.help.partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.noun],
        "summary": " ".join(summary.split()).rstrip("."),
        "description": "\n\n".join(part for part in (rest, _permission(endpoint)) if part),
        "parameters": [*_path(endpoint, schemas), *_query(endpoint, schemas), *_headers(endpoint)],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.takes_body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[endpoint.body]}},
        }
    if endpoint.public:
        operation["security"] = []
    else:
        rule = PERMISSIONS[endpoint.permission]
        operation["x-flowork-needs"] = {
            "permission": endpoint.permission,
            "role": rule.role.value,
            "scope": rule.scope,
            "engine": rule.engine,
        }
    return {name: value for name, value in operation.items() if value or name == "security"}


def _permission(endpoint: Endpoint) -> str:
    if endpoint.public:
        return f"Everybody may call this: {endpoint.public}."
    rule = PERMISSIONS[endpoint.permission]
    where = " for all workspaces" if rule.engine else ""
    return f"Needs `{endpoint.permission}`: the role {rule.role}{where}, or a token with the scope `{rule.scope}`."


def _path(endpoint: Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"\{(\w+)\}", endpoint.path):
        kind = endpoint.parameters[name]
        if is_found(kind):
            schema: dict[str, Any] = {"type": "string", "pattern": FOUND[kind][1], "description": FOUND[kind][2]}
        else:
            schema = schemas[kind]
        text = schema.pop("description", "")
        parameter = {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
        found.append({key: value for key, value in parameter.items() if value})
    return found


def _query(endpoint: Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    shape = schemas.queries.get(endpoint.query, {})
    required = shape.get("required", [])
    found = []
    for name, given in shape.get("properties", {}).items():
        schema = _without_null(given)
        text = schema.pop("description", "")
        parameter = {"name": name, "in": "query", "description": text, "required": name in required, "schema": schema}
        found.append({key: value for key, value in parameter.items() if value})
    return found


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A query parameter is there or not; it is never null."""
    schema = dict(schema)
    if schema.get("default", 0) is None:
        del schema["default"]
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1 and len(choices) < len(schema["anyOf"]):
        del schema["anyOf"]
        return {**choices[0], **schema}
    return schema


def _headers(endpoint: Endpoint) -> list[dict[str, Any]]:
    found = []
    if endpoint.once or endpoint.own_key:
        text = "The same key with the same request gives the first one's answer again."
        schema = {"type": "string", "maxLength": 200}
        found.append({"name": "Idempotency-Key", "in": "header", "description": text, "schema": schema})
    if endpoint.etag:
        text = "An `ETag` from before: answered with 304 if nothing has changed."
        schema = {"type": "string"}
        found.append({"name": "If-None-Match", "in": "header", "description": text, "schema": schema})
    return found


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.answer in (Raw, Pieces):
        good["content"] = {endpoint.media: {}}
    elif endpoint.answer not in _NO_BODY:
        good["content"] = {endpoint.media: {"schema": schemas[endpoint.answer]}}
    responses: dict[str, Any] = {str(endpoint.status): good}
    if endpoint.status == 200 and endpoint.etag:
        good["headers"] = {"ETag": {"schema": {"type": "string"}}}
        responses["304"] = {"description": "Not changed"}
    for status in sorted({*_usual(endpoint), *endpoint.errors}):
        if status < 300:
            responses[str(status)] = {**good, "description": HTTPStatus(status).phrase}
        else:
            responses[str(status)] = _problem(status)
    responses["default"] = _problem(0)
    return responses


def _problem(status: int) -> dict[str, Any]:
    text = HTTPStatus(status).phrase if status else "Any other error"
    return {"description": text, "content": {MEDIA: {"schema": {"$ref": _REF.format(name="ProblemDetails")}}}}


def _usual(endpoint: Endpoint) -> set[int]:
    """The errors that an endpoint of this shape may answer."""
    statuses = {400, 422, 429}
    if not endpoint.public:
        statuses |= {401, 403}
    if endpoint.found:
        statuses.add(404)
    if endpoint.takes_body:
        statuses |= {413, 415}
    if endpoint.once:
        statuses.add(409)
    return statuses
