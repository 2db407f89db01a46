"""Where releases come from: a file, a folder in which the newest counts, an address, a paired engine (``peer:NAME``).

Looking at a release reads its first kilobytes, in which its signed manifest lies; nothing is fetched by that.
"""

from __future__ import annotations

import os
import platform
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO

from msgspec import Struct

from appliance.contracts import FlowError, NodeError
from appliance.store.schema import MIGRATIONS
from appliance.trust import tls_context
from appliance.update.release import Manifest, Release
from appliance.update.updater import IMAGE, OPT, PLACE, read_trusted

#: Seconds that an address may keep one waiting.
_PATIENCE = 60.0
_WEB = ("http://", "https://")
PEER = "peer:"
#: Opens what a paired engine gives, as :func:`appliance.update.peers.opener` makes it.
Opener = Callable[[str], tuple[IO[bytes], int]]


class Available(Struct, frozen=True, kw_only=True):
    """A release that a source has. ``newer``: than what runs here; ``why_not``: why it is not for this machine."""

    source: str
    version: str = ""
    made: int = 0
    kind: str = ""
    newer: bool = False
    why_not: str = ""


def no_peers(source: str) -> tuple[IO[bytes], int]:
    """The opener of who has no links to other engines."""
    raise NodeError(f"{source} cannot be read: there is no link to other engines here")


@contextmanager
def opened(source: str, of_peer: Opener = no_peers) -> Iterator[tuple[IO[bytes], int]]:
    """A source's bytes from their start, and how many there are (0: not known). Raises ``FlowError``."""
    try:
        stream, size = of_peer(source) if source.startswith(PEER) else _open(source)
    except (OSError, urllib.error.URLError, ValueError) as exc:
        raise NodeError(f"{source} cannot be read: {exc}") from None
    with closing(stream):
        yield stream, size


def _open(source: str) -> tuple[IO[bytes], int]:
    if source.startswith(_WEB):
        reply = urllib.request.urlopen(  # noqa: S310  # its scheme was looked at
            source, timeout=_PATIENCE, context=tls_context()
        )
        return reply, int(reply.headers.get("Content-Length") or 0)
    stream = Path(source).open("rb")  # noqa: SIM115  # closed by who asked for it
    return stream, os.fstat(stream.fileno()).st_size


def candidates(source: str) -> list[str]:
    """The release files that a source means: those of a folder, else itself."""
    if source.startswith((*_WEB, PEER)) or not Path(source).is_dir():
        return [source]
    try:
        return sorted(str(path) for path in Path(source).glob("*.flowork") if path.is_file())[:50]
    except OSError as exc:
        raise NodeError(f"{source} cannot be read: {exc}") from None


def look(source: str, of_peer: Opener = no_peers) -> Available:
    """What lies there; of a folder the newest that is for this machine. Raises ``FlowError``."""
    found: list[Available] = []
    for each in candidates(source):
        try:
            with opened(each, of_peer) as (stream, _):
                found.append(judged(each, stream))
        except FlowError as exc:
            if each == source:
                raise
            found.append(Available(source=each, why_not=exc.message))
    if not found:
        raise NodeError(f"there is no release file (.flowork) in {source}")
    return max(found, key=lambda one: (not one.why_not, _number(one.version), one.made))


def judged(source: str, stream: IO[bytes]) -> Available:
    """What a release is, of whose beginning at least the manifest can be read. Raises ``BadRelease``, ``OSError``."""
    manifest = Release(stream, read_trusted(PLACE)).open()
    return Available(
        source=source,
        version=manifest.version,
        made=manifest.made,
        kind=manifest.kind,
        newer=is_newer(manifest.version, manifest.made),
        why_not=_why_not(manifest),
    )


def is_newer(release: str, made: int) -> bool:
    """Whether a release is newer than what runs here; of the same version the one that was made later is."""
    ours, theirs = _number(version("flowork")), _number(release)
    return theirs > ours or (theirs == ours and 0 < made_here() < made)


def _why_not(manifest: Manifest) -> str:
    here = platform.machine(), f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest.machine not in (here[0], "any"):
        return f"it is for {manifest.machine}; this is {here[0]}"
    if (manifest.kind == "slot") != IMAGE.exists():
        kind = "a whole system, for a box that was flashed" if manifest.kind == "slot" else "the program alone"
        return f"it is {kind}; this box " + ("takes whole systems" if IMAGE.exists() else "was not")
    if manifest.kind == "wheels" and manifest.python != here[1]:
        return f"it is for Python {manifest.python}; this is {here[1]}"
    if manifest.schema < MIGRATIONS[-1].number:
        return "it is older and cannot read this engine's database"
    return ""


def made_here() -> int:
    """When the release that runs was made (Unix seconds); 0 for one that the installer has built."""
    try:
        made = (OPT / "current").readlink().name.rpartition("-")[2]
    except OSError:
        return 0
    return int(made) if made.isdigit() and len(made) < 12 else 0


def _number(text: str) -> tuple[int, ...]:
    """A version as numbers; what follows them (``1.2.0rc1``, ``+abc``) does not count."""
    numbers: list[int] = []
    for part in text.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
