"""A real web server on loopback whose answers a test writes: slow, huge, cut off, redirecting, over TLS.

with web_server() as web:
    web.answer("/ok", body=b"hello")
    web.answer("/gone", on=cut_off)
    ... web.url("/ok") ... web.requests[0].headers["idempotency-key"]
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

#: Seconds until a wait fails the test; never waited for when all is well.
PATIENCE = 20.0


@dataclass
class Seen:
    """A request as it arrived; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class WebServer:
    """The server that :func:`web_server` yields."""

    origin: str = ""
    requests: list[Seen] = field(default_factory=list)
    #: Set when a client has hung up on :func:`never_answer` or :func:`pour`.
    hung_up: threading.Event = field(default_factory=threading.Event)
    #: Set when a request has arrived.
    arrived: threading.Event = field(default_factory=threading.Event)
    _answers: dict[str, Callable[[_Handler], None]] = field(default_factory=dict)

    def url(self, target: str) -> str:
        return self.origin + target

    def answer(
        self,
        path: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        on: Callable[[_Handler], None] | None = None,
    ) -> str:
        """Say what a path answers (``on`` writes the answer itself); returns the whole URL."""
        self._answers[path] = on or (lambda handler: handler.reply(status, headers or {}, body))
        return self.url(path)

    def find(self, path: str) -> Callable[[_Handler], None]:
        return self._answers.get(path, lambda handler: handler.reply(404, {}, b"no such page"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        web = self.server.web
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        web.requests.append(Seen(self.command, self.path, headers, body))
        web.arrived.set()
        web.find(self.path.partition("?")[0])(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def wait_for_hang_up(self) -> None:
        with select.epoll() as poll:
            poll.register(self.connection, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
            if poll.poll(PATIENCE):
                self.server.web.hung_up.set()
        self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Tests read ``requests`` instead."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    web: WebServer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what many tests are about."""

    def hang_up(self) -> None:
        """End the connections that are kept alive, so that their threads end too."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def web_server(certificate: Path | None = None) -> Iterator[WebServer]:
    """Serve on a free port of 127.0.0.1; over TLS with a PEM file that holds key and certificate."""
    server = _Server()
    scheme = "http"
    if certificate is not None:
        scheme = "https"
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.web = WebServer(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.web
    finally:
        server.shutdown()
        server.hang_up()
        server.server_close()
        thread.join()


def never_answer(handler: _Handler) -> None:
    """Keep the caller waiting until it hangs up."""
    handler.wait_for_hang_up()


def pour(handler: _Handler) -> None:
    """Send for as long as the caller takes it."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 65536)
    handler.server.web.hung_up.set()
    handler.close_connection = True


def cut_off(handler: _Handler) -> None:
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"only this")
    handler.close_connection = True


def self_signed(folder: Path) -> Path:
    """A PEM file with a key and its certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "flowork test")])
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([host]), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
