"""Large values (pictures) until the appliance has them: files named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.config import write_atomic
from edge_agent.protocol.messages import BLOB_PART, LARGEST_BLOB, BlobPart, encode

#: How a reference looks in an event; a cheap first look.
MARK = b"$blob"
#: Bytes that waiting blobs may take on disk; the oldest go first.
BOUND = 256_000_000


class BlobFolder:
    """Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, data: bytes, mime: str) -> dict[str, Any]:
        """Keep a value; its reference. Raises ``ValueError`` if it is too large, ``OSError``."""
        if len(data) > LARGEST_BLOB:
            raise ValueError(f"{len(data):,} bytes are too large; {LARGEST_BLOB:,} is the most")
        digest = hashlib.sha256(data).hexdigest()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / digest
        if not path.exists():
            self._make_room(len(data))
            write_atomic(path, data)
        return {"$blob": digest, "size": len(data), "type": mime}

    def parts(self, packed: bytes) -> Iterator[bytes]:
        """The messages that have to go ahead of a packed event or answer."""
        for digest, mime in references(packed):
            try:
                data = (self._folder / digest).read_bytes()
            except OSError:
                continue  # it was dropped to make room; the reference stays, and says what is missing
            for start in range(0, max(1, len(data)), BLOB_PART):
                piece = data[start : start + BLOB_PART]
                yield encode(BlobPart(digest=digest, type=mime, data=piece, last=start + BLOB_PART >= len(data)))

    def forget(self, digests: set[str]) -> None:
        """The appliance has them."""
        for digest in digests:
            (self._folder / digest).unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        files = sorted(((path.stat(), path) for path in self._folder.iterdir()), key=lambda pair: pair[0].st_mtime)
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in files:
            if total + size <= BOUND:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size


def references(packed: bytes) -> set[tuple[str, str]]:
    """Digest and type of every blob that a packed value names."""
    if MARK not in packed:
        return set()
    found: set[tuple[str, str]] = set()
    rest = [msgspec.msgpack.decode(packed)]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            digest = value.get("$blob")
            if isinstance(digest, str) and len(digest) == 64 and digest.isalnum():
                found.add((digest, str(value.get("type", "application/octet-stream"))))
            else:
                rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)
    return found
