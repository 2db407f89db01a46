"""The form of a backup: a gzipped tar whose last member, ``manifest.json``, has every file's size and SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec
from msgspec import Struct

from appliance.store.errors import StoreError, explain
from appliance.store.seal import Keys, opened

MANIFEST = "manifest.json"
FORMAT = 1
#: What an archive may hold at its top; anything else is refused on reading.
TOP = frozenset({"flowork.db", "memory.db", "runs", "keys", "blobs", "files", "packages"})
_BLOCK = 256 * 1024
_MANIFEST_LIMIT = 256 * 1024 * 1024
_LEVEL = 4  # of gzip: nearly as small as the default 9 at a quarter of the time on a small board

#: ``progress(bytes done, bytes in all, what is being worked on)``.
Progress = Callable[[int, int, str], None]


class Entry(Struct, frozen=True):
    """One file of a backup: bytes and SHA-256 (hex)."""

    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds. ``left_out`` names what could not be taken along, with the reason."""

    format: int
    created: float
    files: dict[str, Entry]
    left_out: list[str] = []


class ArchiveWriter:
    """Adds files one by one and notes their checksums."""

    def __init__(self, tar: tarfile.TarFile, on_bytes: Callable[[int], None]) -> None:
        self._tar = tar
        self._on_bytes = on_bytes
        self.files: dict[str, Entry] = {}

    def add(self, name: str, path: Path) -> None:
        """Add a file as it is now. Raises ``OSError`` if it goes away or shrinks while it is read."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            info = tarfile.TarInfo(name)  # not gettarinfo(): that stores the second of two hard links empty
            info.size, info.mode, info.mtime = status.st_size, status.st_mode & 0o777, status.st_mtime
            reader = _Hashing(file, self._on_bytes)
            self._tar.addfile(info, reader)
        self.files[name] = Entry(info.size, reader.digest())

    def finish(self, created: float, left_out: list[str]) -> Manifest:
        """Add the manifest; nothing can be added after it."""
        manifest = Manifest(format=FORMAT, created=created, files=self.files, left_out=left_out)
        content = msgspec.json.encode(manifest)
        info = tarfile.TarInfo(MANIFEST)
        info.size, info.mode, info.mtime = len(content), 0o600, int(created)
        self._tar.addfile(info, io.BytesIO(content))
        return manifest


class _Hashing(io.RawIOBase):
    """Reads through to a file, hashing what passes."""

    def __init__(self, file: IO[bytes], on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        self._on_bytes(len(block))
        return block

    def digest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def writing(out: IO[bytes], on_bytes: Callable[[int], None]) -> Iterator[ArchiveWriter]:
    """Write an archive."""
    with (
        gzip.GzipFile(fileobj=out, filename="", mode="wb", compresslevel=_LEVEL) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        yield ArchiveWriter(tar, on_bytes)


def read_archive(
    path: Path, target: Path | None = None, on_bytes: Callable[[int], None] = lambda _: None, keys: Keys | None = None
) -> Manifest:
    """Read an archive to its end, comparing every file with the manifest; with ``target``, extract it there.

    Names are checked, so nothing is ever written outside ``target``; owners and special files are not taken
    from the archive. Raises ``StoreError`` if the archive is damaged, cut off or not one of Flowork's.
    """
    try:
        with opened(path, keys or Keys(), on_bytes) as source:
            return _read(path, source, target)
    except (tarfile.TarError, zlib.error, EOFError, msgspec.MsgspecError, UnicodeError) as exc:
        raise _not_whole(path, str(exc)) from None
    except OSError as exc:
        if exc.errno is None:  # gzip's BadGzipFile
            raise _not_whole(path, str(exc)) from None
        raise explain(exc, path) from exc


def _read(path: Path, source: IO[bytes], target: Path | None) -> Manifest:
    found: dict[str, Entry] = {}
    manifest: Manifest | None = None
    with gzip.GzipFile(fileobj=source, mode="rb") as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        for info in tar:
            content = tar.extractfile(info) if info.isreg() else None
            if content is None or manifest is not None:
                raise _not_whole(path, f"it must not hold {info.name!r}")
            if info.name == MANIFEST:
                manifest = msgspec.json.decode(content.read(_MANIFEST_LIMIT), type=Manifest)
            elif info.name in found or not _is_ours(info.name):
                raise _not_whole(path, f"it must not hold {info.name!r}")
            else:
                found[info.name] = _take(info, content, target)
        while packed.read(_BLOCK):  # to the end: what was cut off there is found by the checksum
            pass
    if manifest is None:
        raise _not_whole(path, "its end is missing")
    if manifest.format > FORMAT:
        raise StoreError(f"{path} was made by a newer Flowork; restore it with that one", retryable=False)
    for name in sorted(manifest.files.keys() | found.keys()):
        if manifest.files.get(name) != found.get(name):
            raise _not_whole(path, f"{name} is not what was backed up")
    return manifest


def _take(info: tarfile.TarInfo, content: IO[bytes], target: Path | None) -> Entry:
    reader = _Hashing(content)
    if target is None:
        size = sum(len(block) for block in iter(lambda: reader.read(_BLOCK), b""))
        return Entry(size, reader.digest())
    file = target / info.name
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    size = 0
    with file.open("xb") as out:
        out_mode = 0o700 if info.mode & 0o100 else 0o600
        file.chmod(out_mode)
        for block in iter(lambda: reader.read(_BLOCK), b""):
            size += out.write(block)
    return Entry(size, reader.digest())


def _is_ours(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parts[:1] != () and path.parts[0] in TOP and ".." not in path.parts and str(path) == name


def _not_whole(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is not a whole Flowork backup: {reason}", retryable=False)
