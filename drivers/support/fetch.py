"""Fetching a page over HTTP in a way that another thread can end, by the standard library."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

from msgspec import Struct

from drivers.base import DriverError
from drivers.support.trust import tls_context

_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}


class Page(Struct, frozen=True):
    status: int
    headers: dict[str, str]  # lower case
    body: bytes


class Fetcher:
    """``stop`` ends the request under way and all later ones."""

    def __init__(self, timeout: float, longest: int, verify: bool) -> None:
        self._timeout = timeout
        self._longest = longest
        self._verify = verify
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._stopped = False

    def get(self, url: str, headers: Mapping[str, str]) -> Page:
        """Raises ``DriverError``; a status of 400 and more is a page like others."""
        for _ in range(_MOST_REDIRECTS + 1):
            page = self._once(url, headers)
            if page.status not in _REDIRECTS or "location" not in page.headers:
                return page
            following = urljoin(url, page.headers["location"])
            if urlsplit(following)[:2] != urlsplit(url)[:2]:
                headers = {}  # keys and cookies are for nobody else
            url = following
        raise DriverError(f"more than {_MOST_REDIRECTS} redirects")

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._connection is not None and self._connection.sock is not None:
                try:
                    self._connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it was over already

    def _once(self, url: str, headers: Mapping[str, str]) -> Page:
        parts = check(url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = tls_context()
            if not self._verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, parts.port, timeout=self._timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=self._timeout)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.connect()
            with self._lock:
                if self._stopped:
                    raise DriverError("stopped")
                self._connection = connection
            connection.request("GET", target, headers=dict(headers))
            reply = connection.getresponse()
            body = reply.read(self._longest + 1)
            if len(body) > self._longest:
                raise DriverError(f"the page is longer than {self._longest} bytes", retryable=False)
            return Page(reply.status, {name.lower(): text for name, text in reply.getheaders()}, body)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise DriverError(f"{host} does not answer: {exc or type(exc).__name__}") from exc
        finally:
            with self._lock:
                self._connection = None
            connection.close()


def check(url: str) -> SplitResult:
    """The parts of an http URL. Raises ``DriverError``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise DriverError(f"url: {exc}", retryable=False) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or any(c <= " " for c in url):
        raise DriverError("url: must be such as http://192.168.1.20/status", retryable=False)
    return parts
