"""Letting web pages of other origins call the API (CORS): those that the setting ``allowed_origins`` names.

A panel that is hosted elsewhere steers this engine with a token. Cookies are never allowed across origins.
"""

from __future__ import annotations

from flask import Request, Response

from appliance.gateway.routing import PREFIX
from appliance.gateway.services import Gateway

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Flowork"
_EXPOSED = "ETag, Location, Retry-After"
_MAX_AGE = "600"


class Cors:
    """Answers preflights and marks answers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def preflight(self, request: Request) -> Response | None:
        """The answer to a browser's question before a request across origins; None if it is none."""
        if "Access-Control-Request-Method" not in request.headers or not request.path.startswith(PREFIX):
            return None
        response = Response(status=204)
        if self._allowed(request):
            response.headers["Access-Control-Allow-Methods"] = _METHODS
            response.headers["Access-Control-Allow-Headers"] = _HEADERS
            response.headers["Access-Control-Max-Age"] = _MAX_AGE
        return response

    def allow(self, request: Request, response: Response) -> None:
        """Let an allowed origin read the answer."""
        if "Origin" not in request.headers:
            return
        response.headers.add("Vary", "Origin")
        if self._allowed(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    def _allowed(self, request: Request) -> bool:
        return request.headers.get("Origin", "").rstrip("/") in self._gateway.settings.allowed_origins
