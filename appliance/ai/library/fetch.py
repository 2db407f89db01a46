"""Fetches one large file over HTTP, so that a cut line, a power cut or kill -9 costs no more than what was under way.

What has come lies in a part (:mod:`.parts`) that says of which file of the source it is the beginning (RFC 9110:
``Range`` is asked for with ``If-Range``, so that a file that has changed begins anew).
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from appliance.ai.library.errors import BadModel, CannotFetch
from appliance.ai.library.parts import Mark, OpenPart, alone, forget, known, length, whole
from appliance.ai.library.room import need_room
from appliance.trust import tls_context

#: ``tell(bytes done, bytes in all (0: not known), what is done)``.
Tell = Callable[[int, int, str], None]
#: ``wait(seconds)`` before another try.
Wait = Callable[[float], None]

_BLOCK = 1 << 18
#: Seconds without a byte after which a connection is given up.
TIMEOUT = 30.0
#: Tries without a single new byte after which it is given up; pauses between them in seconds.
TRIES = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: What is said of an address whose host nobody knows.
OFFLINE = "its name is not known; is this machine on the network?"
_RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_AGENT = "flowork"


class Offer(Struct, frozen=True):
    """What a source says of a file before it is fetched. ``size`` in bytes, 0: not known."""

    url: str
    size: int
    etag: str
    modified: str
    ranges: bool


class _Refused(Exception):
    """The source will not give it: trying again is of no use."""


class _Again(Exception):
    """Something that may pass; ``pause`` is in seconds, 0: as usual."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to another host, but never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise _Refused("it leads from https to an address that is not encrypted")
        if not newurl.startswith(("http:", "https:")):
            raise _Refused("it leads to an address that is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def look(url: str) -> Offer:
    """Ask a source for the size and version of a file. Raises ``CannotFetch``."""
    try:
        with _open(url, {"Range": "bytes=0-0"}) as answer:
            return _offer(url, answer)
    except urllib.error.HTTPError as exc:
        exc.close()
        raise CannotFetch(f"{url}: the source says {_status(exc.code)}") from None
    except _Refused as exc:
        raise CannotFetch(f"{url}: {exc}") from None
    except _FAULTS as exc:
        raise CannotFetch(f"{url}: {_why(exc)}") from None


def fetch(url: str, part: Path, tell: Tell, *, wait: Wait = time.sleep, trust: bool = False) -> int:
    """Fetch into ``part``, going on where it is; its size. Raises ``CannotFetch``, ``NoRoom``, ``ModelIsThere``.

    With ``trust`` it goes on also where the source gives no mark by which a changed file would be known: for a caller
    who checks a checksum afterwards.
    """
    with alone(part):
        failures, pause = 0, _FIRST_PAUSE
        while True:
            before = length(part)
            try:
                return _once(url, part, tell, trust=trust)
            except _Refused as exc:
                raise CannotFetch(f"{url}: {exc}") from None
            except _Again as exc:
                came = length(part) > before
                failures, pause = (1, _FIRST_PAUSE) if came else (failures + 1, pause)
                if failures >= TRIES:
                    raise CannotFetch(f"{url}: {exc}; tried {TRIES} times. What has come is kept") from None
                delay = exc.pause or pause
                tell(length(part), whole(part), f"{exc}; trying again in {delay:.0f} s")
                wait(delay)
                pause = min(pause * 2, _LONGEST_PAUSE)


def sha256_of(path: Path, tell: Tell = lambda done, total, what: None) -> str:
    """The SHA-256 of what really lies on the disk, in hex."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            tell(done, total, "checking")
    return digest.hexdigest()


# --- one connection ----------------------------------------------------------------------------------

_FAULTS = (OSError, http.client.HTTPException, ValueError)


def _once(url: str, part: Path, tell: Tell, *, trust: bool) -> int:
    """One try: the size of the whole file. Raises ``_Again``, ``_Refused``, ``NoRoom``."""
    mark, have = known(part, url, trust)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and mark is not None and mark.validator:
        headers["If-Range"] = mark.validator
    try:
        with _open(url, headers) as answer:
            return _receive(url, answer, part, have, tell)
    except urllib.error.HTTPError as exc:
        exc.close()
        if exc.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if mark is not None and mark.size == have:
                return have
            forget(part)
            raise _Again("the source has another file now") from None
        if exc.code in _RETRY_STATUSES:
            raise _Again(f"the source says {_status(exc.code)}", _asked_pause(exc)) from None
        raise _Refused(f"the source says {_status(exc.code)}") from None
    except _FAULTS as exc:
        raise _Again(_why(exc)) from None


def _receive(url: str, answer: http.client.HTTPResponse, part: Path, have: int, tell: Tell) -> int:
    offer = _offer(url, answer)
    begin = _begin(answer) if answer.status == http.client.PARTIAL_CONTENT else 0
    if begin not in (0, have):
        raise _Again("the source sends another part than was asked for")
    need_room(part.parent, offer.size - begin)
    done = begin
    with OpenPart(part, begin, offer.size) as file:
        file.mark(Mark(url=url, size=offer.size, etag=offer.etag, modified=offer.modified))
        tell(done, offer.size, "fetching")
        while block := answer.read1(_BLOCK):
            if offer.size and done + len(block) > offer.size:
                raise _Again("the source sends more than it said")
            file.write(block)
            done += len(block)
            tell(done, offer.size, "fetching")
    if offer.size and done < offer.size:
        raise _Again(f"the connection ended after {done} of {offer.size} bytes")
    return done


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers})  # noqa: S310
    if request.type not in ("http", "https"):
        raise ValueError("an address begins with https:// or http://")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=tls_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener.open(request, timeout=TIMEOUT)


def _offer(url: str, answer: http.client.HTTPResponse) -> Offer:
    headers = answer.headers
    partial = answer.status == http.client.PARTIAL_CONTENT
    text = headers.get("Content-Range", "").rpartition("/")[2] if partial else headers.get("Content-Length", "")
    size = int(text) if text.isdigit() and len(text) < 16 else 0
    kind = headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise _Refused("it is a web page and no model; give the address of the file itself")
    return Offer(
        url=url,
        size=size,
        etag=headers.get("ETag", "")[:500],
        modified=headers.get("Last-Modified", "")[:100],
        ranges=partial or headers.get("Accept-Ranges", "") == "bytes",
    )


def _begin(answer: http.client.HTTPResponse) -> int:
    text = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() and len(text) < 16 else -1


def _asked_pause(exc: urllib.error.HTTPError) -> float:
    text = exc.headers.get("Retry-After", "") if exc.headers else ""
    return min(float(text), 300.0) if text.isdigit() and len(text) < 6 else 0.0


def _why(exc: BaseException) -> str:
    reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}); is the clock right?"
    if isinstance(reason, TimeoutError):
        return f"no answer for {TIMEOUT:.0f} s"
    if isinstance(reason, http.client.IncompleteRead):
        return "the connection ended in the middle"
    if isinstance(reason, socket.gaierror):
        return OFFLINE
    text = (reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)) or type(exc).__name__
    return text[:1].lower() + text[1:200]


def _status(code: int) -> str:
    words = http.client.responses.get(code, "")
    more = {401: "; it wants a login", 403: "; it wants a login, or its licence has to be accepted there first"}
    return f"{code} {words}".strip() + more.get(code, "")


def check(expected: str, actual: str, what: str) -> None:
    """Raises ``BadModel`` for a wrong checksum."""
    if expected and expected != actual:
        raise BadModel(
            f"{what}: its checksum is {actual} and should be {expected}: it was damaged on the way, or it is another "
            "file. Nothing of it is kept"
        )
