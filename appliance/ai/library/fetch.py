"""Fetches one large file over HTTP, so that a cut line, a power cut or kill -9 costs no more than what was under way.

What has come lies in ``NAME.part``, and beside it ``NAME.part.json`` says of which file of the source it is the
beginning (RFC 9110: ``Range`` is asked for with ``If-Range``, so that a file that has changed begins anew).
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from appliance.ai.library.errors import BadModel, CannotFetch, ModelIsThere, NoRoom
from appliance.ai.library.room import full, room

#: ``tell(bytes done, bytes in all (0: not known), what is done)``.
Tell = Callable[[int, int, str], None]
#: ``wait(seconds)`` before another try.
Wait = Callable[[float], None]

_BLOCK = 1 << 18
#: Bytes between two syncs: what a power cut may cost.
_SYNC = 1 << 26
#: Seconds without a byte after which a connection is given up.
TIMEOUT = 30.0
#: Tries without a single new byte after which it is given up; pauses between them in seconds.
TRIES = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Bytes that are left free on the disk.
SPARE = 200_000_000
#: Bytes between two looks at how many these are: others write too while a file comes.
_LOOK = 1 << 22
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


class _Mark(Struct, kw_only=True):
    """Of what a part is the beginning."""

    url: str
    size: int
    etag: str
    modified: str

    @property
    def validator(self) -> str:
        """What ``If-Range`` takes: a strong tag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


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
            before = _length(part)
            try:
                return _once(url, part, tell, trust=trust)
            except _Refused as exc:
                raise CannotFetch(f"{url}: {exc}") from None
            except _Again as exc:
                came = _length(part) > before
                failures, pause = (1, _FIRST_PAUSE) if came else (failures + 1, pause)
                if failures >= TRIES:
                    raise CannotFetch(f"{url}: {exc}; tried {TRIES} times. What has come is kept") from None
                delay = exc.pause or pause
                tell(_length(part), _size_in(part), f"{exc}; trying again in {delay:.0f} s")
                wait(delay)
                pause = min(pause * 2, _LONGEST_PAUSE)


def forget(part: Path) -> None:
    """Delete what has come."""
    part.unlink(missing_ok=True)
    _mark_of(part).unlink(missing_ok=True)
    _lock_of(part).unlink(missing_ok=True)


def take(part: Path, target: Path) -> None:
    """Give what has come its name, for good: content first, then the name (rename(2))."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    _mark_of(part).unlink(missing_ok=True)
    _lock_of(part).unlink(missing_ok=True)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    mark, have = _known(part, url, trust)
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
    with _Disk(part, begin, offer.size) as disk:
        disk.mark(_Mark(url=url, size=offer.size, etag=offer.etag, modified=offer.modified))
        tell(done, offer.size, "fetching")
        while block := answer.read1(_BLOCK):
            if offer.size and done + len(block) > offer.size:
                raise _Again("the source sends more than it said")
            disk.write(block)
            done += len(block)
            tell(done, offer.size, "fetching")
    if offer.size and done < offer.size:
        raise _Again(f"the connection ended after {done} of {offer.size} bytes")
    return done


def _known(part: Path, url: str, trust: bool) -> tuple[_Mark | None, int]:
    """Of what the part is the beginning, and how much of it there is to go on with."""
    have = _length(part)
    try:
        mark = msgspec.json.decode(_mark_of(part).read_bytes(), type=_Mark)
    except (OSError, msgspec.MsgspecError):
        mark = None
    usable = mark is not None and mark.url == url and (bool(mark.validator) or trust)
    return (mark, have) if usable and have else (None, 0)


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers})  # noqa: S310
    if request.type not in ("http", "https"):
        raise ValueError("an address begins with https:// or http://")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_trust()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener.open(request, timeout=TIMEOUT)


def _trust() -> ssl.SSLContext:
    """The machine's own list of authorities, so that a house's own one counts."""
    return ssl.create_default_context()


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


# --- the disk ----------------------------------------------------------------------------------------


def need_room(folder: Path, size: int) -> None:
    """Raises ``NoRoom`` if ``size`` more bytes would leave the disk too full."""
    free = free_on(folder)
    if size + SPARE > free:
        raise NoRoom(
            f"{free / 1e6:,.0f} MB are left on the disk of {folder}; it takes {size / 1e6:,.0f} MB, and "
            f"{SPARE / 1e6:,.0f} MB must stay free. Delete what is not needed (`flowork models remove`), or move the "
            "data folder to a larger disk"
        )


def free_on(folder: Path) -> int:
    """Bytes that the disk of a folder has left."""
    place = os.statvfs(folder)
    return place.f_bavail * place.f_frsize


class _Disk:
    """The part, open behind its first ``begin`` bytes. What its disk refuses is ``NoRoom``, not the network's fault."""

    def __init__(self, part: Path, begin: int, size: int) -> None:
        self._part = part
        self._begin = begin
        self._size = size
        self._done = begin
        self._since = 0
        self._unseen = 0

    def __enter__(self) -> _Disk:
        with self._ours():
            self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, self._begin)
            os.lseek(self._fd, self._begin, os.SEEK_SET)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def mark(self, mark: _Mark) -> None:
        """Of what this is the beginning."""
        with self._ours():
            _mark_of(self._part).write_bytes(msgspec.json.encode(mark))

    def write(self, block: bytes) -> None:
        """All of a block; to the disk itself now and then."""
        with self._ours():
            left = memoryview(block)
            while left:
                count = os.write(self._fd, left)
                left = left[count:]
                self._done += count
            self._since += len(block)
            if self._since > _SYNC:
                os.fdatasync(self._fd)
                self._since = 0
        self._unseen += len(block)
        if self._unseen > _LOOK:
            self._unseen = 0
            # Half of what is spared: what a file takes beside its bytes, and others write, is not to end it at once.
            if free_on(self._part.parent) < SPARE // 2:
                raise full(self._part.parent, self._came())

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            with room(self._part.parent, self._came()):
                yield
        except OSError as exc:
            raise NoRoom(f"{self._part}: {(exc.strerror or str(exc)).lower()}") from None

    def _came(self) -> str:
        whole = f" of {self._size / 1e6:,.1f}" if self._size else ""
        return f"{self._done / 1e6:,.1f}{whole} MB have come and are kept"


def _lock_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.lock")


def _mark_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _size_in(part: Path) -> int:
    try:
        return msgspec.json.decode(_mark_of(part).read_bytes(), type=_Mark).size
    except (OSError, msgspec.MsgspecError):
        return 0


@contextmanager
def alone(part: Path) -> Iterator[None]:
    """One at a time fetches a file. Raises ``ModelIsThere``."""
    handle = os.open(_lock_of(part), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ModelIsThere(f"{part.stem} is being fetched already") from None
    try:
        yield
    finally:
        os.close(handle)


def check(expected: str, actual: str, what: str) -> None:
    """Raises ``BadModel`` for a wrong checksum."""
    if expected and expected != actual:
        raise BadModel(
            f"{what}: its checksum is {actual} and should be {expected}: it was damaged on the way, or it is another "
            "file. Nothing of it is kept"
        )
