"""Gunicorn's threaded worker, without its arbiter: our supervisor starts and restarts this process already.

Its one port takes http and https; a second one, on the loopback alone, takes what comes out of a tunnel.

See docs/decisions/gateway-worker.md. The only importer of gunicorn.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

from appliance.contracts import FlowError
from appliance.gateway.app import create_app, gateway_of
from appliance.gateway.identity import TUNNEL
from appliance.gateway.problems import MEDIA, BadRequest, describe, encode
from appliance.gateway.secure import STALLED, speaks_tls
from appliance.gateway.services import Gateway
from appliance.listener import ListenError, bind, listen
from appliance.security.scrub import ScrubFilter

logger = logging.getLogger(__name__)

#: Seconds for requests under way when the gateway stops, and between two requests on a connection.
GRACE = 3
KEEPALIVE = 5
LINGER = 1.0
_DRAIN = 16


class _OverTls:
    """Gunicorn's settings for one connection over TLS; all others stay as they are."""

    is_ssl = True

    def __init__(self, inner: Any, context: ssl.SSLContext) -> None:
        self._inner = inner
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def ssl_context(self, _config: Any, _default: Any) -> ssl.SSLContext:
        """Called by gunicorn where it wraps the socket."""
        return self._context


class Connection(TConn):
    """One connection of a client, over TLS if it begins with a handshake and HTTPS is on."""

    gateway: Gateway

    def init(self) -> None:
        """On one of the threads, once the first byte is there."""
        if not self.initialized and self.gateway.settings.https != "off" and speaks_tls(self.sock):
            context = self.gateway.certificates.context(self.sock.getsockname()[0])
            self.sock.settimeout(STALLED)  # the handshake too
            self.cfg = _OverTls(self.cfg, context)
        super().init()


class Worker(ThreadWorker):
    """Answers what is not HTTP with our form of error, and lets the panels go when it stops."""

    #: The socket that only a tunnel on this machine is to know, if there is one.
    tunnel: socket.socket | None = None

    def accept(self, listener: socket.socket) -> None:
        """Somebody connects; the same as gunicorn's, with connections of our own."""
        try:
            client, address = listener.accept()
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.ECONNABORTED):  # gone again before it was taken
                raise
            return
        self.nr_conns += 1
        server = (TUNNEL, 0) if listener is self.tunnel else listener.getsockname()
        connection = Connection(self.cfg, client, address, server)
        connection.gateway = self.app.gateway
        self.enqueue_req(connection)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: finish what is under way."""
        super().handle_exit(sig, frame)
        self.method_queue.defer(self.app.stopping)

    def handle(self, conn: Any) -> Any:
        """On one of the threads: a request on a connection."""
        result = super().handle(conn)
        if result is False:
            _linger(conn.sock)
        return result

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """The request could not even be read; gunicorn would answer with a page of its own."""
        logger.debug("not HTTP from %s: %s", addr, exc)
        data = encode(describe(BadRequest("this is not a request that can be read"), str))
        head = f"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: {MEDIA}\r\n"
        try:
            client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        except OSError:
            logger.debug("%s did not wait for the answer", addr)


class Application(BaseApplication):
    """Gunicorn's settings and our application."""

    def __init__(self, data: Path, threads: int) -> None:
        self._data = data
        self._threads = threads
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn."""
        assert self.cfg is not None
        settings = {
            "threads": self._threads,
            "graceful_timeout": GRACE,
            "keepalive": KEEPALIVE,
            "worker_connections": 1000,
            "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108  # never a card
            "loglevel": "warning",
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Called by gunicorn."""
        self.flask = create_app(self._data, threads=self._threads)
        return self.flask

    @property
    def gateway(self) -> Gateway:
        """The services behind the application."""
        return gateway_of(self.flask)

    def stopping(self) -> None:
        """Let go of live connections, so that their threads end."""
        self.gateway.stop_live()


class _StalledClients(logging.Filter):
    """Gunicorn tells of a client that sends nothing for too long with a traceback; that is no news."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError | TimeoutError))


def serve(data: Path, listener: socket.socket, threads: int) -> int:
    """Serve until SIGTERM; the exit code. Closes the listener."""
    _prepare(listener)
    application = Application(data, threads)
    application.wsgi()
    gateway = application.gateway
    for handler in logging.getLogger().handlers:
        handler.addFilter(ScrubFilter(gateway.scrubber))
    try:
        gateway.know_secrets()
    except FlowError as exc:
        logger.error("the secrets cannot be read: %s", exc.message)
    config = application.cfg
    assert config is not None
    tunnel = _tunnel(gateway)
    sockets = [listener, *([tunnel] if tunnel is not None else [])]
    worker = Worker(0, os.getppid(), sockets, application, 30, config, config.logger_class(config))
    worker.tunnel = tunnel
    logging.getLogger("gunicorn.error").addFilter(_StalledClients())
    gc.collect()
    gc.freeze()
    try:
        worker.init_process()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0
    finally:
        worker.tmp.close()
        gateway.close()
    return 0


def _tunnel(gateway: Gateway) -> socket.socket | None:
    """The socket for a tunnel on this machine. One that cannot be had is said; the rest goes on without it."""
    port = gateway.settings.tunnel_port
    if not port:
        return None
    try:
        sock = bind("127.0.0.1", port)
        listen(sock)
    except ListenError as exc:
        gateway.tunnel_failure = exc.message
        logger.error("no tunnel can connect: %s", exc.message)
        return None
    _prepare(sock)
    return sock


def _linger(sock: socket.socket) -> None:
    """Say that nothing more comes, and wait for the other side to close (RFC 9112, 9.6).

    Gunicorn does that where all connections are watched, and so a client that does not close would hold up
    everybody. Afterwards nothing is left to wait for.
    """
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(LINGER)
        for _ in range(_DRAIN):
            if not sock.recv(4096):
                break
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RD)


def _prepare(listener: socket.socket) -> None:
    """What accepted connections inherit (Linux): no waiting for company, and no waiting for ever."""
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stalled = struct.pack("@ll", STALLED, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stalled)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stalled)
