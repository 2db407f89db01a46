"""``create_app``: the gateway as a WSGI application."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, request

from appliance.gateway import certificate_page, nouns, panel, problems
from appliance.gateway.cors import Cors
from appliance.gateway.doorway import Doorway
from appliance.gateway.guard import view_of
from appliance.gateway.hooks import Hooks
from appliance.gateway.live import LiveSocket
from appliance.gateway.openai_api import OpenAIApi
from appliance.gateway.routing import PREFIX, Noun
from appliance.gateway.services import Gateway

EXTENSION = "flowork"
#: For answers that are data: nothing in them is ever run or framed.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@cache
def all_nouns() -> tuple[Noun, ...]:
    """The nouns of the API by name: every module in ``nouns/`` has one."""
    names = sorted(module.name for module in pkgutil.iter_modules(nouns.__path__))
    return tuple(importlib.import_module(f"{nouns.__name__}.{name}").noun for name in names)


def create_app(
    data: Path,
    *,
    threads: int = 64,
    environ: Mapping[str, str] | None = None,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Flask:
    """The gateway of an initialised data folder (``init_keys`` has run).

    ``threads`` bounds the live connections; the clocks are Unix and monotonic seconds. ``gateway_of(app).close()``
    lets go of what it opens. Raises what opening the store raises.
    """
    gateway = Gateway(data, environ=environ, now=now, monotonic=monotonic)
    app = Flask("flowork", static_folder=None, template_folder=None)
    app.extensions[EXTENSION] = gateway
    app.url_map.strict_slashes = True
    for noun in all_nouns():
        app.register_blueprint(_blueprint(gateway, noun))
    live = LiveSocket(gateway, threads)
    gateway.on_close(live.close)
    live.init_app(app)
    OpenAIApi(gateway).init_app(app)
    certificate_page.init_app(app, gateway)
    panel.init_app(app, gateway)
    _add_errors(app, gateway)
    _add_headers(app, gateway)
    hooks = Hooks(gateway, app.wsgi_app)
    # Flask documents this as the way to add a WSGI layer.
    app.wsgi_app = Doorway(gateway, hooks)  # type: ignore[method-assign]
    return app


def gateway_of(app: Flask) -> Gateway:
    """The services of an application that :func:`create_app` made."""
    gateway: Gateway = app.extensions[EXTENSION]
    return gateway


def _blueprint(gateway: Gateway, noun: Noun) -> Blueprint:
    blueprint = Blueprint(noun.name, __name__)
    for endpoint in noun.endpoints:
        blueprint.add_url_rule(
            endpoint.rule,
            endpoint=endpoint.handler.__name__,
            view_func=view_of(gateway, endpoint),
            methods=[endpoint.method],
        )
    return blueprint


def _add_errors(app: Flask, gateway: Gateway) -> None:
    @app.errorhandler(Exception)
    def failed(exc: Exception) -> Response:
        problem = problems.describe(exc, gateway.scrub)
        allow = getattr(exc, "valid_methods", None)
        return problems.respond(problem, {"Allow": ", ".join(sorted(allow))} if allow else None)


def _add_headers(app: Flask, gateway: Gateway) -> None:
    cors = Cors(gateway)

    @app.before_request
    def preflight() -> Response | None:
        return cors.preflight(request) if request.method == "OPTIONS" else None

    @app.after_request
    def finish(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if request.path.startswith(PREFIX):
            cors.allow(request, response)
        rule: Any = request.url_rule
        gateway.traffic.count(rule.endpoint.partition(".")[0] if rule else "other", response.status_code)
        return response
