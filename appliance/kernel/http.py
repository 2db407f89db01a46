"""The engine's one HTTP client: what nodes receive as ``ctx.http``, and providers of models; imports httpx alone.

It belongs to one asyncio loop and opens nothing before the first request. Flows share its connections
but nothing else: cookies are never kept, so one flow's session cannot leak into another's request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from appliance import trust
from appliance.contracts import ConfigError, HttpReply, NodeError

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 10
#: Seconds. Short, because a server that closes an idle connection while a POST is on its way makes it fail.
KEEPALIVE = 5.0
CONNECT_TIMEOUT = 10.0
#: Bytes of one line of a stream.
LONGEST_LINE = 4_000_000
_GZIP = 16 + zlib.MAX_WBITS
#: RFC 9110 section 5.6.2 (names) and 5.5 (values).
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")


class HttpClient:
    """Implements :class:`appliance.contracts.Http`.

    Errors are ``ConfigError`` for what can never be sent (a bad URL or header), else ``NodeError`` whose
    ``detail["sent"]`` is False when it is certain that the server has not seen the request. No message
    shows more of a URL than scheme, host and port: paths and queries often hold tokens.
    """

    def __init__(self, *, max_connections: int = 50, user_agent: str = "Flowork") -> None:
        self._max_connections = max_connections
        self._user_agent = user_agent
        self._clients: dict[bool | Path, httpx.AsyncClient] = {}
        self._folders: list[int] = []
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = 30.0,
        limit: int = 10_000_000,
        follow_redirects: bool = True,
        verify: bool = True,
    ) -> HttpReply:
        """One request and its whole answer within ``timeout`` seconds.

        ``params`` are added to those in ``url``. A body that is longer than ``limit`` bytes (unpacked)
        is refused as soon as that shows. Cancelling closes the connection.
        """
        client = self._client(verify)
        request = _build(client, method, url, headers, params, body, min(timeout, CONNECT_TIMEOUT))
        try:
            async with asyncio.timeout(timeout):
                return await _exchange(client, request, limit, follow_redirects)
        except TimeoutError:
            message = f"{_place(request.url)} did not answer within {timeout:g} seconds"
            raise NodeError(message, detail={"sent": True}) from None
        except Exception as exc:
            _explain(exc, _place(request.url))

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        socket: Path | None = None,
        called: str = "",
        verify: bool = True,
    ) -> AsyncIterator[Streamed]:
        """Implements :class:`appliance.contracts.StreamingHttp`; follows no redirect, sets no limit of time."""
        client = self._client(socket or verify)
        request = _build(client, method, url, headers, None, body, CONNECT_TIMEOUT)
        place = called or _place(request.url)
        try:
            response = await client.send(request, stream=True)
        except Exception as exc:
            _explain(exc, place)
        try:
            yield Streamed(response, place)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close every connection; a later request fails. Calling it twice is fine."""
        self._closed = True
        while self._clients:
            await self._clients.popitem()[1].aclose()
        while self._folders:
            os.close(self._folders.pop())

    def _client(self, way: bool | Path) -> httpx.AsyncClient:
        """The client for a way to go: with or without checking certificates, or a Unix socket."""
        if self._closed:
            raise NodeError("the engine is stopping", detail={"sent": False})
        if way not in self._clients:
            self._clients[way] = self._open_socket(way) if isinstance(way, Path) else self._open(way)
        return self._clients[way]

    def _open_socket(self, socket: Path) -> httpx.AsyncClient:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)
        # Through a descriptor, for the kernel takes no more than 107 bytes of a socket's path.
        folder = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders.append(folder)
        way = httpx.AsyncHTTPTransport(uds=f"/proc/self/fd/{folder}/{socket.name}")
        return httpx.AsyncClient(transport=way, headers={"Accept-Encoding": "identity"})

    def _open(self, verify: bool) -> httpx.AsyncClient:
        import http.cookiejar

        import httpx

        # It would log every URL, with the tokens in it.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        # httpx decides on certificates per client, not per request: hence one client for each way.
        jar = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        return httpx.AsyncClient(
            verify=_trust() if verify else False,
            cookies=jar,
            max_redirects=MAX_REDIRECTS,
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "gzip"},
            limits=httpx.Limits(
                max_connections=self._max_connections,
                max_keepalive_connections=self._max_connections // 4,
                keepalive_expiry=KEEPALIVE,
            ),
        )


class Streamed:
    """Implements :class:`appliance.contracts.HttpStream`."""

    def __init__(self, response: httpx.Response, place: str) -> None:
        self._response = response
        self._place = place

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return dict(self._response.headers.items())

    async def lines(self) -> AsyncIterator[str]:
        """The lines of the body without their ends."""
        rest = bytearray()
        try:
            async for chunk in _chunks(self._response, LONGEST_LINE):
                rest += chunk
                while (end := rest.find(b"\n")) >= 0:
                    line = bytes(rest[:end])
                    del rest[: end + 1]
                    yield line.removesuffix(b"\r").decode(errors="replace")
                if len(rest) > LONGEST_LINE:
                    raise _too_long(self._response, LONGEST_LINE)
        except NodeError:
            raise
        except Exception as exc:
            _explain(exc, self._place)
        if rest:
            yield rest.decode(errors="replace")

    async def read(self, limit: int = LONGEST_LINE) -> bytes:
        """The whole body."""
        try:
            return await _read(self._response, limit)
        except Exception as exc:
            _explain(exc, self._place)


def _trust() -> ssl.SSLContext:
    """The machine's own certificates, where a home lab installs its CA; else those that come with httpx."""
    import httpx

    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return trust.tls_context()
    return httpx.create_ssl_context()


def _build(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    headers: Mapping[str, str] | None,
    params: Mapping[str, str] | None,
    body: bytes | None,
    connect: float,
) -> httpx.Request:
    import httpx

    # Only connecting has a limit of its own; the whole is bounded by the caller.
    limits = httpx.Timeout(None, connect=connect)
    raw = _raw_headers(headers or {})
    try:
        target = httpx.URL(url)
        if params:
            # The ``params`` of httpx would replace the URL's own query.
            target = target.copy_merge_params(dict(params))
        request = client.build_request(method, target, headers=raw, content=body, timeout=limits)
    except (httpx.InvalidURL, UnicodeError):
        # The text of the error may hold a piece of a password.
        message = "the URL cannot be read; percent-encode the special characters in it"
        raise ConfigError(message) from None
    host = request.url.host
    if request.url.scheme not in ("http", "https") or not host or "%" in host:
        raise ConfigError("the URL must begin with http:// or https:// and name a host")
    return request


def _raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of an HTTP header")
        if not _HEADER_VALUE.fullmatch(value):
            # The value itself is not shown: it may be a secret.
            raise ConfigError(f"the header {name} holds a line break or another forbidden character")
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, limit: int, follow_redirects: bool) -> HttpReply:
    response = await client.send(request, stream=True, follow_redirects=follow_redirects)
    try:
        body = await _read(response, limit)
    finally:
        await response.aclose()
    headers = dict(response.headers.items())
    if _is_packed(response):
        # The body handed out is unpacked; these would describe what it no longer is.
        del headers["content-encoding"]
        headers.pop("content-length", None)
    final = response.url.copy_with(userinfo=b"")
    return HttpReply(response.status_code, headers, body, str(final))


async def _read(response: httpx.Response, limit: int) -> bytes:
    announced = response.headers.get("content-length", "")
    if response.request.method != "HEAD" and announced.isdigit() and int(announced) > limit:
        raise _too_long(response, limit)
    body = bytearray()
    async for chunk in _chunks(response, limit):
        body += chunk
        if len(body) > limit:
            raise _too_long(response, limit)
    return bytes(body)


def _chunks(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    return _unpacked(response, limit) if _is_packed(response) else response.aiter_raw()


async def _unpacked(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    """Gunzip with a bound on each step: httpx's own decoder lets 64 kB grow to 64 MB at once."""
    inflate = zlib.decompressobj(_GZIP)
    empty = True
    async for chunk in response.aiter_raw():
        while chunk:
            empty = False
            yield inflate.decompress(chunk, limit + 1)
            chunk = inflate.unconsumed_tail
            if inflate.eof:
                chunk, inflate = inflate.unused_data, zlib.decompressobj(_GZIP)
                empty = True
    if not empty:
        raise zlib.error("the packed body ends too early")


def _is_packed(response: httpx.Response) -> bool:
    return response.headers.get("content-encoding", "").lower() in ("gzip", "x-gzip")


def _too_long(response: httpx.Response, limit: int) -> NodeError:
    detail = {"sent": True, "status": response.status_code}
    message = f"the answer of {_place(response.url)} is larger than {limit} bytes"
    return NodeError(message, retryable=False, detail=detail)


def _explain(exc: Exception, place: str) -> NoReturn:
    """Raise what a person should read in place of what httpx or zlib raised."""
    import httpx

    if isinstance(exc, httpx.TooManyRedirects):
        message = f"{place} redirects more than {MAX_REDIRECTS} times"
        raise NodeError(message, retryable=False, detail={"sent": True}) from None
    if isinstance(exc, httpx.UnsupportedProtocol):
        message = f"{place} redirects to something that is not http or https"
        raise NodeError(message, retryable=False, detail={"sent": True}) from None
    if isinstance(exc, httpx.LocalProtocolError):
        raise ConfigError(f"this request to {place} breaks the rules of HTTP") from None
    if (untrusted := _certificate_fault(exc)) is not None:
        message = f"the certificate of {place} is not trusted: {untrusted}"
        raise NodeError(message, retryable=False, detail={"sent": False}) from None
    if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError):
        message = f"{place} cannot be reached: {_reason(exc)}"
        raise NodeError(message, detail={"sent": False}) from None
    if isinstance(exc, httpx.HTTPError):
        raise NodeError(f"{place} broke off: {_reason(exc)}", detail={"sent": True}) from None
    if isinstance(exc, zlib.error):
        raise NodeError(f"{place} sent a damaged body: {exc}", detail={"sent": True}) from None
    raise exc


def _certificate_fault(exc: BaseException) -> str | None:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None


def _reason(exc: Exception) -> str:
    """What the system says, without its number; a name for those errors that httpx leaves without a text."""
    return _NUMBER.sub("", str(exc)) or type(exc).__name__


def _place(url: httpx.URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}"
