"""What plain http is still given once HTTPS is on: to a browser the way to https, to programs what the setting says.

A browser is not simply sent on: one that does not know the engine's authority yet would be stopped by a warning, with
no way to the certificate that it lacks. It gets the page of that certificate, which goes on by itself if https works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from appliance.contracts import FlowError
from appliance.gateway.identity import by_tunnel, is_local, remote_of
from appliance.gateway.problems import MEDIA, describe, encode
from appliance.gateway.services import Gateway
from appliance.security.roles import Forbidden

#: The page of the root's certificate, and what lies below it.
PAGE = "/certificate"
#: What a supervisor asks for, from whichever address.
_HEALTH = "/api/v1/health"
_PROGRAMS = ("/api/", "/hooks/", "/v1/", "/docs/")

StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Doorway:
    """A WSGI layer in front of all others."""

    def __init__(self, gateway: Gateway, inner: Wsgi) -> None:
        self._gateway = gateway
        self._inner = inner

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            mode = self._gateway.settings.https
        except FlowError:  # the store cannot be read: the layers behind say so in their own form
            return self._inner(environ, start_response)
        if mode == "off" or environ["wsgi.url_scheme"] == "https" or _is_inside(environ):
            return self._inner(environ, start_response)
        path: str = environ.get("PATH_INFO", "")
        if path in (_HEALTH, PAGE) or path.startswith(f"{PAGE}/"):
            return self._inner(environ, start_response)
        if _is_page(environ, path):
            target = quote(path) + (f"?{query}" if (query := environ.get("QUERY_STRING")) else "")
            headers = [("Location", f"{PAGE}?to={quote(target, safe='/')}"), ("Cache-Control", "no-store")]
            start_response("302 Found", [*headers, ("Content-Length", "0")])
            return []
        if mode == "only":
            return _refuse(environ, path, start_response)
        return self._inner(environ, start_response)


def _is_inside(environ: dict[str, Any]) -> bool:
    """Whether plain http goes no further than this machine: to itself, or into a tunnel, which has a TLS of its own."""
    return is_local(remote_of(environ)) or by_tunnel(environ)


def _is_page(environ: dict[str, Any], path: str) -> bool:
    """Whether a browser goes somewhere, rather than a program fetching something."""
    wants = "text/html" in environ.get("HTTP_ACCEPT", "")
    return wants and environ["REQUEST_METHOD"] in ("GET", "HEAD") and not path.startswith(_PROGRAMS)


def _refuse(environ: dict[str, Any], path: str, start_response: StartResponse) -> Iterable[bytes]:
    address = f"https://{environ.get('HTTP_HOST', '')[:200]}{path[:200]}"
    problem = describe(Forbidden(f"this engine answers https only (its setting https): use {address}"), str)
    data = encode(problem)
    headers = [("Content-Type", MEDIA), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
    start_response("403 Forbidden", [*headers, ("Content-Length", str(len(data)))])
    return [data] if environ["REQUEST_METHOD"] != "HEAD" else []
