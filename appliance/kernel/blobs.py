"""Blobs as files of the data folder, or in the database where machines share one (:func:`make_blobs`).

A blob is the file ``<data>/blobs/ab/<sha256>``, where ``ab`` begins the digest. It appears under its name
only when it is whole and on disk, so a power cut leaves a temporary file behind and never half a blob.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.contracts import NodeError
from appliance.store.blobs import BlobInfo, BlobStore
from appliance.store.places import database_url

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".tmp"
_PIECE = 1 << 20


class FileBlobs(BlobStore):
    """Blobs as files. ``sync`` False leaves writing to the operating system (durability ``process``)."""

    def __init__(self, data: Path, *, sync: bool = True) -> None:
        self._folder = data / "blobs"
        self._sync = sync
        #: Between "is it there" and "it is in use from now on" no collection may delete it.
        self._lock = threading.Lock()
        self.clean = lambda data: data

    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]:
        data = self.clean(data)
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        try:
            if not self._renew(path, data):
                self._write(path, data)
        except OSError as exc:
            raise NodeError(f"a blob of {len(data)} bytes could not be stored: {exc.strerror}") from exc
        return {"$blob": digest, "size": len(data), "type": mime}

    def get(self, reference: Mapping[str, Any]) -> bytes:
        digest = reference.get("$blob")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise NodeError("this is not a reference to a blob", retryable=False)
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise NodeError(f"blob {digest[:12]} is gone", retryable=False, detail={"blob": digest}) from None
        except OSError as exc:
            raise NodeError(f"blob {digest[:12]} could not be read: {exc.strerror}") from exc
        if len(data) != reference.get("size", len(data)) or hashlib.sha256(data).hexdigest() != digest:
            message = f"blob {digest[:12]} is damaged on the disk"
            raise NodeError(message, retryable=False, detail={"blob": digest, "size": len(data)})
        return data

    def keep(self, digest: str, size: int) -> bool:
        if not _DIGEST.fullmatch(digest):
            return False
        path = self._path(digest)
        with self._lock:
            try:
                if path.stat().st_size != size:
                    return False
                os.utime(path)
            except OSError:
                return False
        return True

    def __iter__(self) -> Iterator[BlobInfo]:
        for path in self._files():
            if _DIGEST.fullmatch(path.name):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                yield BlobInfo(path.name, status.st_size, status.st_mtime)

    def delete(self, digest: str, *, unused_since: float = math.inf) -> bool:
        if not _DIGEST.fullmatch(digest):
            return False
        path = self._path(digest)
        with self._lock:
            try:
                if path.stat().st_mtime >= unused_since:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def clear_leftovers(self, before: float) -> int:
        count = 0
        for path in self._files():
            if path.name.endswith(_TEMPORARY) and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
                count += 1
        return count

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def _files(self) -> Iterator[Path]:
        if self._folder.is_dir():
            for folder in self._folder.iterdir():
                if folder.is_dir():
                    yield from folder.iterdir()

    def _renew(self, path: Path, data: bytes) -> bool:
        """Whether the blob is there already and whole; its age begins anew then."""
        with self._lock:
            try:
                if not _holds(path, data):
                    return False
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def _write(self, path: Path, data: bytes) -> None:
        self._make_folder(path.parent)
        temporary = path.with_name(f"{secrets.token_hex(8)}{_TEMPORARY}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                if self._sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._sync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            self._sync_folder(folder.parent)

    def _sync_folder(self, folder: Path) -> None:
        """A new name in a folder is on disk only when the folder is."""
        if not self._sync:
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # Some network file systems cannot do it.
                raise
        finally:
            os.close(handle)


def make_blobs(data: Path, *, sync: bool = True, environ: Mapping[str, str] | None = None) -> BlobStore:
    """The blobs of an engine."""
    url = database_url(environ)
    if not url:
        return FileBlobs(data, sync=sync)
    from appliance.store.postgres.blobs import PostgresBlobs

    return PostgresBlobs(url, sync=sync)


def _holds(path: Path, data: bytes) -> bool:
    """Compared and not only looked up, so that putting mends a damaged blob."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != len(data):
            return False
        view = memoryview(data)
        return all(file.read(_PIECE) == view[at : at + _PIECE] for at in range(0, len(data), _PIECE))
