"""The OpenAPI document."""

from __future__ import annotations

import functools

from appliance.gateway import answers
from appliance.gateway.openapi import document
from appliance.gateway.routing import Call, Nothing, Noun, Raw
from appliance.gateway.version import VERSION

noun = Noun("openapi", "This API's own description.")


@functools.cache
def _document(cookie: str) -> bytes:
    from appliance.gateway.app import all_nouns

    return answers.encode(document(all_nouns(), VERSION, cookie))


@noun.get("/openapi.json", permission="catalog:read", anywhere=True, etag=True)
def show(call: Call[Nothing, Nothing]) -> Raw:
    """The OpenAPI 3.1 document, made from the code."""
    return Raw(_document(call.gateway.cookie), "application/json")
