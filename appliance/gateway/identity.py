"""Who calls: what a request shows of its caller, made into an identity by ``security.access``; and how often.

A browser on another page may carry our cookie to us (see ``security.origins``), and a foreign host name may be
pointed at this box (DNS rebinding). So where a cookie or a signature made in a browser counts, the request's
``Host`` must be one of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from appliance.contracts import Busy
from appliance.listener import host_names
from appliance.security.access import Access, Call
from appliance.security.origins import host_allowed
from appliance.security.ratelimit import HOOK, Rate, RateLimiter, caller_key
from appliance.security.roles import ANONYMOUS, Forbidden, Identity, Unauthorized
from appliance.store.settings import Settings

#: In the WebSocket handshake, where a browser can set no header, a token comes as a subprotocol.
SUBPROTOCOL = "flowork"
_BEARER = "flowork.bearer."
_LOOPBACK = ("127.", "::1", "::ffff:127.")
#: The server's name (``SERVER_NAME``) of what came by the tunnel's own port: no client can set that one.
TUNNEL = "tunnel"
#: Where one signs in: all that a stranger may call through a tunnel.
_SIGN_IN = "/api/v1/session"


def headers_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """A WSGI request's headers with names in lower case."""
    found = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")}
    if kind := environ.get("CONTENT_TYPE"):
        found["content-type"] = kind
    return found


def by_tunnel(environ: Mapping[str, Any]) -> bool:
    """Whether a request came in by the tunnel's port, so from anywhere in the world."""
    return bool(environ.get("SERVER_NAME") == TUNNEL)


def remote_of(environ: Mapping[str, Any]) -> str:
    """The caller's address. A proxy on this machine is believed when it names the one behind it.

    What comes by the tunnel is never this machine itself, whatever the tunnel says or leaves out.
    """
    remote: str = environ.get("REMOTE_ADDR", "")
    tunnel = by_tunnel(environ)
    if tunnel or remote.startswith(_LOOPBACK):
        behind = str(environ.get("HTTP_X_FORWARDED_FOR", "")).rpartition(",")[2].strip()[:64]
        if tunnel:
            return TUNNEL if not behind or behind.startswith(_LOOPBACK) else behind
        return behind or remote
    return remote


def is_local(remote: str) -> bool:
    """The call comes from this very machine."""
    return remote.startswith(_LOOPBACK)


@functools.lru_cache(4096)
def _net(remote: str) -> str:
    return caller_key(ANONYMOUS, remote)


class Callers:
    """Tells who calls, and holds them to their rate. Made anew when the settings change."""

    def __init__(
        self,
        access: Access,
        cookie: str,
        settings: Settings,
        limiter: Callable[[str, Rate], RateLimiter] = lambda name, rate: RateLimiter(rate),
    ) -> None:
        self._access = access
        self._cookie = cookie
        self._hosts = list(_hosts(settings))
        self._calls = limiter("call", Rate(settings.rate_limit, settings.rate_burst))
        per_minute = settings.sign_ins_per_minute
        self._sign_ins = limiter("sign-in", Rate(per_minute / 60, per_minute))
        self._hooks = limiter("hook", HOOK)

    def identify(
        self, environ: Mapping[str, Any], headers: Mapping[str, str], body: Any, *, websocket: bool, public: bool
    ) -> Identity:
        """Who calls. Raises ``Unauthorized``, ``Forbidden``, ``Busy``.

        Where everybody may call (``public``), a session that has ended is as good as none.
        """
        cookie = _cookie(headers.get("cookie", ""), cookie_for(self._cookie, environ))
        if cookie and "authorization" not in headers:
            self.require_host(headers)
        target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or _target(environ)
        call = Call(
            method=environ["REQUEST_METHOD"],
            target=target,
            headers=_with_subprotocol(headers) if websocket else headers,
            cookie=cookie,
            body=body,
            websocket=websocket,
        )
        sheltered = not by_tunnel(environ) or environ.get("PATH_INFO", "").startswith(_SIGN_IN)
        try:
            identity = self._access.identify(call)
            if identity.kind == "anonymous" and not sheltered:
                raise Unauthorized("this comes through a tunnel, where everything needs a sign-in or an engine token")
            return identity
        except Unauthorized:
            if public and sheltered and "authorization" not in headers:
                return ANONYMOUS
            # Who guesses is counted by where they come from.
            self.take(ANONYMOUS, remote_of(environ))
            raise

    def require_host(self, headers: Mapping[str, str]) -> None:
        """Raises ``Forbidden`` for a host name that is not known to be this box's."""
        host = headers.get("host", "")
        if not host_allowed(host, self._hosts):
            raise Forbidden(
                f"{host[:100]!r} is not known as a name of this box: open Flowork by its address, or add "
                f"http://{host[:100]} to the setting allowed_origins"
            )

    def take(self, identity: Identity, remote: str) -> None:
        """Count one call. Raises ``Busy``."""
        key = identity.label if identity.kind != "anonymous" else _net(remote)
        _hold(self._calls, key, "too many requests")

    def take_sign_in(self, remote: str) -> None:
        """Count one attempt to sign in. Raises ``Busy``."""
        _hold(self._sign_ins, _net(remote), "too many attempts to sign in")

    def take_hook(self, remote: str) -> None:
        """Count one call of a webhook; programs on this machine are bounded by the queue alone. Raises ``Busy``."""
        if not remote.startswith(_LOOPBACK):
            _hold(self._hooks, _net(remote), "too many requests")


def _hold(limiter: RateLimiter, key: str, why: str) -> None:
    decision = limiter.take(key)
    if not decision.allowed:
        raise Busy(f"{why}: wait a moment", retry_after=decision.retry_after)


def _hosts(settings: Settings) -> Iterator[str]:
    yield from host_names()
    for origin in settings.allowed_origins:
        yield urlsplit(origin).hostname or ""


def cookie_for(name: str, environ: Mapping[str, Any]) -> str:
    """The name of the session's cookie on this connection.

    Over https it is one of its own, which browsers take from nobody else and send nowhere else (RFC 6265bis, 4.1.3.2);
    a page over http could neither read nor replace it, and so would keep whoever goes back to http from signing in.
    """
    return f"__Host-{name}" if environ.get("wsgi.url_scheme") == "https" else name


def _cookie(header: str, name: str) -> str:
    """One cookie's value (RFC 6265, 5.4); ours needs no unquoting."""
    for part in header.split(";"):
        found, _, value = part.strip().partition("=")
        if found == name:
            return value
    return ""


def _with_subprotocol(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers with a token from ``Sec-WebSocket-Protocol: flowork, flowork.bearer.flw_…``."""
    for part in headers.get("sec-websocket-protocol", "").split(","):
        if part.strip().startswith(_BEARER):
            return {**headers, "authorization": f"Bearer {part.strip().removeprefix(_BEARER)}"}
    return headers


def _target(environ: Mapping[str, Any]) -> str:
    """The path and query for a server that does not tell them as they came (WSGI without ``RAW_URI``)."""
    query = environ.get("QUERY_STRING", "")
    return str(environ.get("PATH_INFO", "")) + (f"?{query}" if query else "")
