"""``/api/v1/live``: one WebSocket a tab, over which all live events come.

Each message is a JSON list of events, which are gathered for some milliseconds. After ``?after=<id>`` of the last
event that was seen, a client goes on from there, or is told to load anew (``reset``). Each socket holds one of the
server's threads, so there is a bound on them: some threads are always left for everything else.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from flask import Flask, Response, request
from flask_sock import Sock
from msgspec import Meta

from appliance.contracts import FlowError
from appliance.gateway import bodies
from appliance.gateway.common import Query
from appliance.gateway.device_views import news
from appliance.gateway.guard import allowed_somewhere
from appliance.gateway.hub import DEVICES, PEERS, Heard, Hub, Watcher
from appliance.gateway.identity import SUBPROTOCOL, headers_of, remote_of
from appliance.gateway.naming import NOWHERE
from appliance.gateway.problems import BadRequest, Unavailable
from appliance.gateway.routing import PREFIX
from appliance.gateway.secure import SharedTls
from appliance.gateway.services import Gateway
from appliance.kernel.client import Stream
from appliance.security.roles import EVERYWHERE, Forbidden, Identity, Unauthorized, allowed
from appliance.security.signed_request import SCHEME

logger = logging.getLogger(__name__)

PATH = f"{PREFIX}/live"
#: Threads that sockets leave to everything else.
SPARE = 16
#: Seconds between two messages, in which events are gathered; between two looks at whether the caller may still watch.
GATHER = 0.02
RECHECK = 30.0
PING = 25.0
#: Bytes of one message; more go into the next.
MAX_MESSAGE = 65_536
#: What a panel ever sends.
_MAX_RECEIVED = 4096
_JOIN = 5.0
_PLACE, _WATCH = "flowork.place", "flowork.watch"
#: Why a socket is closed (RFC 6455, 7.4, and the IANA registry of close codes).
_GOING_AWAY = 1001, "the gateway is stopping"
_SLOW = 1013, "this panel reads more slowly than things happen; connect again"
_NOT_ALLOWED = 1008, "this session or token has ended"


class Watch(Query, frozen=True):
    """What to watch."""

    after: Annotated[str, Meta(max_length=1600, description="The id of the last event that was seen")] = ""
    flow: Annotated[list[str], Meta(max_length=100, description="Only runs of these flows (ids)")] = []


class LiveSocket:
    """The endpoint, its bound, and the hub behind it."""

    def __init__(self, gateway: Gateway, threads: int) -> None:
        self._gateway = gateway
        self._most = max(1, threads - SPARE)
        self._hub = Hub(self._connect, self._shape)
        self._places = 0
        self._lock = threading.Lock()
        gateway.sockets = lambda: self._places

    def init_app(self, app: Flask) -> None:
        """Add the endpoint to the application."""
        app.config["SOCK_SERVER_OPTIONS"] = {
            "ping_interval": PING,
            "max_message_size": _MAX_RECEIVED,
            "subprotocols": [SUBPROTOCOL],
        }
        sock = Sock()

        sock.route(PATH, endpoint="live")(self._serve)

        @app.before_request
        def admit() -> Response | None:
            # Before the handshake: afterwards nothing can be refused with a status any more.
            if request.path == PATH and request.method == "GET" and _is_upgrade():
                request.environ[_WATCH] = self._admit()
                # The WebSocket closes what it is given, and gunicorn counts a connection that it finds closed
                # twice: so it gets a descriptor of its own.
                if sock := request.environ.get("gunicorn.socket"):
                    shared = SharedTls(sock) if isinstance(sock, ssl.SSLSocket) else sock.dup()
                    request.environ["gunicorn.socket"] = shared
            return None

        @app.teardown_request
        def release(_: BaseException | None) -> None:
            # However it ended: refused, a handshake that failed, a panel that went away.
            if request.environ.pop(_PLACE, False):
                with self._lock:
                    self._places -= 1

        @app.get(PATH, endpoint="live_plain")
        def plain() -> Response:
            self._identify()
            raise BadRequest("this is a WebSocket; connect with ws:// instead of http://")

        sock.init_app(app)

    def close(self) -> None:
        """Let all panels go. Twice is fine."""
        self._hub.close()

    # --- the kernel ------------------------------------------------------------------------------------

    def _connect(self, after: Heard | None) -> Stream:
        return self._gateway.kernel.stream("live", after=after)

    def _shape(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event with the API's units (seconds) and the version's number."""
        if event.get("type") in {"devices", "agent"}:
            return news(event)
        if event.get("type") != "run":
            return event
        accepted, finished = event["accepted"], event["finished"]
        return {
            **event,
            "version": self._gateway.names.number(event["version"]),
            "accepted": accepted / 1e6,
            "finished": None if finished is None else finished / 1e6,
            "steps": [_shape_step(step, accepted) for step in event["steps"]],
        }

    # --- one panel -------------------------------------------------------------------------------------

    def _identify(self) -> Identity:
        environ = request.environ
        callers = self._gateway.callers
        identity = callers.identify(environ, headers_of(environ), bytes, websocket=_is_upgrade(), public=False)
        callers.take(identity, remote_of(environ))
        if identity.kind == "anonymous":
            raise Unauthorized("sign in first, or send an engine token")
        if not allowed_somewhere(identity, "runs:read"):
            raise Forbidden("watching live needs runs:read in some workspace")
        return identity

    def _admit(self) -> tuple[Identity, Watch]:
        identity = self._identify()
        if "Sec-WebSocket-Key" not in request.headers or request.headers.get("Sec-WebSocket-Version") != "13":
            raise BadRequest("this is no WebSocket handshake of version 13 (RFC 6455)")
        watch: Watch = bodies.query_of(request.environ.get("QUERY_STRING", ""), Watch)
        with self._lock:
            if self._places >= self._most:
                raise Unavailable(f"{self._most} panels watch already, which is as many as this engine takes")
            self._places += 1
            request.environ[_PLACE] = True
        return identity, watch

    def _serve(self, ws: Any) -> None:
        identity, watch = request.environ[_WATCH]
        # The socket's own bell, which also rings when the panel goes away.
        watcher = Watcher(self._filter(identity, frozenset(watch.flow)), ws.event)
        self._hub.add(watcher, watch.after)
        try:
            self._send_all(ws, watcher, identity)
        except OSError:
            logger.debug("a panel went away")
        finally:
            self._hub.remove(watcher)
            _end(ws)

    def _filter(self, identity: Identity, flows: frozenset[str]) -> Callable[[str], bool]:
        """Which events this caller gets: of flows in workspaces it may read, and what else it may see."""
        names, devices = self._gateway.names, allowed_somewhere(identity, "devices:read")
        everywhere = allowed(identity, "runs:read", EVERYWHERE)
        peers = allowed(identity, "peers:read", EVERYWHERE)

        def wants(flow: str) -> bool:
            if not flow:
                return True
            if flow == DEVICES:
                return devices
            if flow == PEERS:
                return peers
            if flows and flow not in flows:
                return False
            workspace = EVERYWHERE if everywhere else names.workspace_of(flow)
            return everywhere or (workspace != NOWHERE and allowed(identity, "runs:read", workspace))

        return wants

    def _send_all(self, ws: Any, watcher: Watcher, identity: Identity) -> None:
        checked = sent = time.monotonic()  # a client may lose what comes in one packet with the handshake
        while ws.connected:
            if watcher.bell.wait(RECHECK) and not watcher.closed:
                time.sleep(max(0.0, sent + GATHER - time.monotonic()))
            watcher.bell.clear()
            ws.input_buffer.clear()  # a panel has nothing to say
            for message in _messages(watcher.take()):
                ws.send(message)
                sent = time.monotonic()
            if watcher.closed:
                ws.close(*(_SLOW if watcher.dropped else _GOING_AWAY))
                return
            if time.monotonic() - checked >= RECHECK:
                checked = time.monotonic()
                if not self._may_still(identity):
                    ws.close(*_NOT_ALLOWED)
                    return

    def _may_still(self, identity: Identity) -> bool:
        """The session has not ended, the token was not revoked, the role was not taken away."""
        headers = headers_of(request.environ)
        try:
            if headers.get("authorization", "").startswith(SCHEME):  # a signature counts once
                return self._gateway.users.identity(identity.id) == identity
            callers = self._gateway.callers
            return callers.identify(request.environ, headers, bytes, websocket=True, public=False) == identity
        except FlowError:
            return False


def _shape_step(step: dict[str, Any], accepted: int) -> dict[str, Any]:
    if "at" not in step:
        return step
    return {**step, "at": (accepted + step["at"]) / 1e6, "took": step["took"] / 1e6}


def _end(ws: Any) -> None:
    """End the thread that reads the socket: without this it would notice only at its next ping."""
    ws.connected = False
    with suppress(OSError):
        ws.sock.shutdown(socket.SHUT_RDWR)
    ws.thread.join(_JOIN)


def _is_upgrade() -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _messages(events: list[bytes]) -> list[str]:
    """The events as few messages, none of them much larger than the bound."""
    messages: list[str] = []
    part: list[bytes] = []
    size = 0
    for event in events:
        if part and size + len(event) > MAX_MESSAGE:
            messages.append(f"[{b','.join(part).decode()}]")
            part, size = [], 0
        part.append(event)
        size += len(event)
    if part:
        messages.append(f"[{b','.join(part).decode()}]")
    return messages
