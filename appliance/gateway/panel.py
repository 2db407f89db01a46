"""Serves the panel, if it was built; else a page that says what this is and how to look around without it.

The panel is static files: what carries a hash in its name is kept by browsers for ever, its pages are asked for
anew. Any address that is no file is one of the panel's own pages. None of it holds data of the engine.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from flask import Flask, Response, request, send_from_directory
from werkzeug.exceptions import MethodNotAllowed, NotFound

from appliance.gateway import page
from appliance.gateway.services import Gateway

_HERE = Path(__file__).parent
#: Where a built panel lies: in the package, or in the checkout that this runs from.
PLACES = (_HERE / "static", _HERE.parent.parent / "web" / "dist")
#: Vite's names of files that never change: ``assets/index-B3xk9_aQ.js``.
_HASHED = re.compile(r"^assets/.+-[A-Za-z0-9_-]{8,}\.[a-z0-9.]+$")
#: What belongs to the engine and is never a page of the panel.
_OURS = ("api/", "hooks/", "docs/")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' http: https: ws: wss:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def built_panel() -> Path | None:
    """The folder of a built panel."""
    return next((place for place in PLACES if (place / "index.html").is_file()), None)


def init_app(app: Flask, gateway: Gateway) -> None:
    """Add the pages that are served to a browser."""
    folder = built_panel()

    @app.get("/", endpoint="panel_home")
    def home() -> Response:
        if folder is not None:
            return _file(folder, "index.html")
        status = gateway.kernel_status()
        return _page(page.home(running=status is not None, host=request.host))

    @app.get("/docs/errors", endpoint="panel_errors")
    def errors() -> Response:
        return _page(page.errors())

    @app.get("/<path:path>", endpoint="panel_file")
    def anything(path: str) -> Response:
        if path.startswith(_OURS):
            _refuse(app, path)
        if folder is None or "\0" in path:
            raise NotFound
        try:
            return _file(folder, path)
        except NotFound:
            if "." in path.rpartition("/")[2]:  # a file that is gone, not a page
                raise
            return _file(folder, "index.html")


def _refuse(app: Flask, path: str) -> NoReturn:
    """An address of the engine that takes no GET, or that is not there."""
    others = set(app.url_map.bind("").allowed_methods(f"/{path}")) - {"GET", "HEAD", "OPTIONS"}
    raise MethodNotAllowed(sorted(others)) if others else NotFound


def _file(folder: Path, path: str) -> Response:
    response = _compressed(folder, path) or send_from_directory(folder, path, conditional=True, etag=True)
    response.headers.add("Vary", "Accept-Encoding")
    forever = "public, max-age=31536000, immutable"
    response.headers["Cache-Control"] = forever if _HASHED.match(path) else "no-cache"
    return _marked(response, {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"})


def _compressed(folder: Path, path: str) -> Response | None:
    """The copy that the build put beside a text, for those who take it."""
    if not request.accept_encodings.quality("gzip"):
        return None
    kind = mimetypes.guess_type(path)[0]
    try:
        response = send_from_directory(folder, f"{path}.gz", mimetype=kind, conditional=True, etag=True)
    except NotFound:
        return None
    response.headers["Content-Encoding"] = "gzip"
    return response


def _page(html: str) -> Response:
    policy = f"default-src 'none'; style-src '{page.STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"
    response = Response(html, content_type="text/html; charset=utf-8")
    return _marked(response, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})


def _marked(response: Response, headers: Mapping[str, str]) -> Response:
    for name, value in headers.items():
        response.headers[name] = value
    return response
