"""A source of model files over real HTTP, with the faults that sources have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Source:
    """Serves ``files`` by name. Set its fields to have it fail; ``asked`` are the ranges that it was asked for."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        self.etag = '"one"'
        self.modified = ""
        self.ranges = True
        #: Bytes after which the connection is cut, once for each number.
        self.cuts: list[int] = []
        #: Statuses to answer with first, one each.
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.redirect = ""
        self.type = "application/octet-stream"
        #: Called before each block of ``block`` bytes.
        self.before_block: Callable[[int], None] = lambda sent: None
        self.block = 1 << 16
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        source = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                source.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        probe = wanted == "bytes=0-0"
        if not probe:
            self.asked.append(wanted)
        if self.redirect:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.statuses and not probe:
            self._short(handler, self.statuses.pop(0))
            return
        content = self.files.get(handler.path.lstrip("/").partition("?")[0])
        if content is None:
            self._short(handler, 404)
            return
        self._send(handler, content, wanted, probe)

    def _short(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _send(self, handler: BaseHTTPRequestHandler, content: bytes, wanted: str, probe: bool) -> None:
        begin = int(wanted[6:].partition("-")[0]) if wanted else 0
        condition = handler.headers.get("If-Range", "")
        same = not condition or condition in (self.etag, self.modified)
        partial = bool(wanted) and self.ranges and same
        if partial and begin >= len(content):
            self._short(handler, 416)
            return
        begin = begin if partial else 0
        end = 1 if partial and probe else len(content)
        handler.send_response(206 if partial else 200)
        handler.send_header("Content-Type", self.type)
        handler.send_header("Content-Length", str(end - begin))
        if partial:
            handler.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        for name, value in (("ETag", self.etag), ("Last-Modified", self.modified)):
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        stop = self.cuts.pop(0) if self.cuts and not probe else len(content)
        sent = begin
        while sent < end:
            if sent >= stop:
                handler.close_connection = True
                return
            self.before_block(sent)
            block = content[sent : min(sent + self.block, end, max(stop, sent + 1))]
            try:
                handler.wfile.write(block)
            except OSError:
                handler.close_connection = True
                return
            sent += len(block)
