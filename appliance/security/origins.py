"""Is it our own page that asks? What keeps other web sites from using a signed-in person's browser.

Three fences for requests that a cookie answers for: the cookie is ``SameSite=Strict``; an unsafe request or a
WebSocket must come from our own origin (or carry a header that a foreign page cannot send); and the host that
the browser asked for must be one of ours, else a foreign name pointed at this box (DNS rebinding) would be
"our own origin" too. Requests with a token or a signature need none of this: no browser adds those by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

#: A header that only our own page or a program sends: a foreign page would need a CORS preflight, never granted.
HEADER = "x-flowork"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def origin_allowed(method: str, headers: Mapping[str, str], *, websocket: bool = False) -> bool:
    """Whether a request that a session cookie answers for may go on. Header names must be in lower case.

    A safe method may always. Anything else, and every WebSocket handshake (which is a GET that cookies ride
    on), must come from the host it is sent to: the browser says so itself (``Sec-Fetch-Site``, which it leaves
    out over plain http), or ``Origin`` shows it. Where both are missing, :data:`HEADER` must be there. The
    scheme is not compared, for a proxy may end TLS.
    """
    if method.upper() in _SAFE and not websocket:
        return True
    site = headers.get("sec-fetch-site", "none")
    if site != "none":
        return site == "same-origin"
    origin = headers.get("origin")
    if origin is not None:
        scheme, _, host = origin.partition("://")
        return scheme in ("http", "https") and bool(host) and _same_host(scheme, host, headers.get("host", ""))
    return HEADER in headers and not websocket


def host_allowed(host: str, names: Iterable[str] = ()) -> bool:
    """Whether the ``Host`` header names this box: an address, ``localhost``, ``*.local``, or one of ``names``.

    An IP address cannot be rebound, and ``.local`` is answered by the local network alone. ``names`` are the
    box's host name and what the settings add (without port, ``*.example.org`` for all below).
    """
    name = _split_port(host.strip().lower())[0].rstrip(".")
    if not name:
        return False
    if _is_address(name) or name == "localhost" or name.endswith((".localhost", ".local")):
        return True
    return any(_matches(name, allowed.lower().rstrip(".")) for allowed in names)


def _same_host(scheme: str, origin_host: str, host: str) -> bool:
    default = {"http": "80", "https": "443"}
    ours, theirs = _split_port(host.lower()), _split_port(origin_host.lower())
    # A proxy on 443 or 80 sends its own Host on, so a missing port equals the port of the page's scheme.
    return ours[0] == theirs[0] and (ours[1] or default[scheme]) == (theirs[1] or default[scheme])


def _split_port(host: str) -> tuple[str, str]:
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _matches(name: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return name.endswith(allowed[1:])
    return bool(allowed) and name == allowed
